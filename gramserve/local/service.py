"""One service as a supervised process: started, waited for, started again when it dies, stopped."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gramserve.errors import Reason, Unavailable
from gramserve.local import tether

FIRST_BACKOFF_S = 0.5
LONGEST_BACKOFF_S = 30.0
STABLE_S = 60.0
POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """What to run: `module` is run with `python -m` under `environment`; `ready_s` bounds its start.

    `{port}` in a value of the environment becomes the port that the service had last time, first `port`.
    """

    name: str
    module: str
    environment: Mapping[str, str]
    port: int = 0
    ready_s: float = 120.0


class Service:
    """A running service. It logs to `log`; `say` is told what a person should know."""

    def __init__(self, spec: ServiceSpec, log: Path, say: Callable[[str], None]) -> None:
        self.name = spec.name
        self.log = log
        self.port = spec.port
        self._spec = spec
        self._say = say
        self._process: Process | None = None
        self._stopping = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """The process id; None while it does not run."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def start(self) -> None:
        """Start the process and wait until it says that it is ready.

        Raises Unavailable with the last line of its log when it ends before, or is not ready in time.
        """
        environment = {key: value.replace("{port}", str(self.port)) for key, value in self._spec.environment.items()}
        # Not blocking for long: opening and asking for the size of a local file.
        with self.log.open("ab") as log:
            start = log.tell()
            self._process = await asyncio.create_subprocess_exec(
                *tether.launcher(),
                *(sys.executable, "-m", self._spec.module),
                stdin=DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **environment},
                start_new_session=True,  # Ctrl-C reaches the supervisor only, which knows the order
            )
        deadline = time.monotonic() + self._spec.ready_s
        while (port := _ready_port(self.log, start)) is None:
            if self._process.returncode is not None:
                raise self._failed(_last_line(self.log, start) or f"it ended with {_ending(self._process.returncode)}")
            if time.monotonic() > deadline:
                await self.stop(grace_s=5.0)
                raise self._failed(f"it was not ready within {self._spec.ready_s:.0f} s")
            await asyncio.sleep(POLL_S)
        self.port = port

    async def keep(self) -> None:
        """Start the process again, with growing pauses, whenever it dies; returns once `stop` was called."""
        backoff_s = FIRST_BACKOFF_S
        while True:
            assert self._process is not None
            started = time.monotonic()
            code = await self._process.wait()
            if self._stopping.is_set():
                return
            if time.monotonic() - started > STABLE_S:
                backoff_s = FIRST_BACKOFF_S
            self._say(f"{self.name} ended with {_ending(code)}; starting it again in {backoff_s:g} s (see {self.log})")
            await asyncio.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, LONGEST_BACKOFF_S)
            if self._stopping.is_set():
                return
            try:
                await self.start()
            except Unavailable as error:
                self._say(error.message)
            else:
                self._say(f"{self.name} is ready again")

    async def stop(self, grace_s: float) -> None:
        """Ask the process to end, kill it after `grace_s` seconds; safe to call at any time."""
        self._stopping.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), grace_s)
        except TimeoutError:
            self._say(f"{self.name} did not stop within {grace_s:.0f} s and is killed")
            process.kill()
            await process.wait()

    def _failed(self, why: str) -> Unavailable:
        return Unavailable(Reason.SERVICE_UNAVAILABLE, f"{self.name} did not start: {why}")


def _lines(log: Path, start: int) -> list[str]:
    with log.open("rb") as file:
        file.seek(start)
        return file.read().decode(errors="replace").splitlines()


def _ready_port(log: Path, start: int) -> int | None:
    """The port in the line {"event": "ready", "port": N}, written after `start`."""
    for line in _lines(log, start):
        if '"ready"' in line:
            try:
                entry = json.loads(line)
            except ValueError:  # half a line
                continue
            if entry.get("event") == "ready":
                return int(entry.get("port", 0))
    return None


def _last_line(log: Path, start: int) -> str:
    """The last line for people, without their name before it: services say in one why they refuse to start."""
    told = [line for line in _lines(log, start) if line.strip() and not line.startswith("{")]
    return re.sub(r"^[a-z ]{1,20}: ", "", told[-1].strip()) if told else ""


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
