"""The service's end of a job process: starting it, hearing it, stopping it, and its death."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from gramserve.sandbox import without_secrets
from optimizer_svc.messages import Message, unpack

JOB_COMMAND = (sys.executable, "-m", "optimizer_svc.job_process")
_LINE_BYTES = 4 * 1024 * 1024

# Nothing calls out at run time: model libraries fetch weights and send figures unless they are told not to.
_OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}


# Threads of torch that wait for each other must sleep, not spin: with anything else running on the machine, spinning
# made a training step on two cores 17 times slower (82 against 5 ms an image, test_resnet at 96 px).
PATIENT_THREADS = {"OMP_WAIT_POLICY": "PASSIVE"}


def job_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of a job: ours without the queue, the store and the signing key."""
    kept = {
        name: value for name, value in without_secrets(environ).items() if not name.startswith("GRAMSERVE_STORE_URL")
    }
    return kept | _OFFLINE | PATIENT_THREADS


class JobProcess:
    """A running job, in a process group of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, command: Sequence[str], workspace: Path, environment: Mapping[str, str]) -> JobProcess:
        """Start `command` on `workspace`. Raises OSError."""
        process = await asyncio.create_subprocess_exec(
            *(*command, str(workspace)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=environment,
            limit=_LINE_BYTES,
            start_new_session=True,  # so that all it started ends with it, and Ctrl-C reaches the service first
        )
        return cls(process)

    @property
    def pid(self) -> int:
        """The process id, which is that of the group too."""
        return self._process.pid

    async def messages(self) -> AsyncIterator[Message]:
        """What it says until it ends; a line that is no message ends it."""
        assert self._process.stdout is not None
        try:
            while line := await self._process.stdout.readline():
                yield unpack(line)
        except ValueError:
            self.kill()

    def ask_to_stop(self) -> None:
        """Have it stop at its next step."""
        if self._process.stdin is not None and not self._process.stdin.is_closing():
            self._process.stdin.write(b"\n")

    def kill(self) -> None:
        """End it and all that it started, now."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # it ended, and we have not heard of it yet
                os.killpg(self._process.pid, signal.SIGKILL)

    async def ended(self) -> str:
        """Waits for its end; how it ended, for the log: "SIGKILL", "exit status 1"."""
        status = await self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        return signal.Signals(-status).name if status < 0 else f"exit status {status}"
