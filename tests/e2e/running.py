"""`gramserve up` as a person starts it: a process of its own, watched from outside."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from gramserve.store.objects import open_store
from gramserve.store.registry import Registry
from tests.artifacts import publish_tiny
from tests.waiting import until

GRAMSERVE = str(Path(sys.executable).with_name("gramserve"))
# A worker that died is noticed after a lease: two seconds of it keep these tests short.
LEASE_S = "2"


class Up:
    """One run of `gramserve up` on `folder`; with its store at `store` unless that is empty."""

    def __init__(
        self, folder: Path, *words: str, store: str = "", environment: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder
        self.store = store or str(folder / "store")
        words = (*words, "--store", store) if store else words
        self._output = folder.with_suffix(".out")
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [GRAMSERVE, "up", "--data-dir", str(folder), "--gateway-port", "0", "--optimizer-port", "0", *words],
                stdout=output,
                stderr=output,
                env={**os.environ, "GRAMSERVE_LEASE_S": LEASE_S, **(environment or {})},
            )

    @property
    def said(self) -> str:
        """What it printed so far."""
        return self._output.read_text()

    async def ready(self) -> None:
        """Returns when everything serves."""

        def says_so() -> bool:
            assert self.process.poll() is None, self.said
            return "\nready\n" in self.said

        await until(says_so)

    def address(self, service: str) -> str:
        """Where the gateway or optimizer listens."""
        found = re.search(rf"^{service} +(\S+),", self.said, re.MULTILINE)
        assert found, self.said
        return found[1]

    def descendants(self) -> list[psutil.Process]:
        """Every process below it."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def find(self, words: str) -> psutil.Process | None:
        """The process below it with `words` in its command line."""
        for process in self.descendants():
            try:
                if words in " ".join(process.cmdline()):
                    return process
            except psutil.Error:  # it just ended
                continue
        return None

    async def kill(self, words: str) -> int:
        """kill -9 of the process with `words` in its command line."""
        process = await until(lambda: self.find(words), what=f"a process {words}")
        process.kill()
        return process.pid

    async def stop(self) -> int:
        """Ask it to stop; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(self.process.wait, 60)


@asynccontextmanager
async def running(
    folder: Path, *words: str, store: str = "", environment: Mapping[str, str] | None = None
) -> AsyncIterator[Up]:
    """Everything but the optimizer, with a tiny model in production, ready."""
    await publish_tiny(Registry(open_store(store or str(folder / "store"))))
    up = Up(folder, "--no-optimizer", *words, store=store, environment=environment)
    try:
        await up.ready()
        yield up
    finally:
        await up.stop()
