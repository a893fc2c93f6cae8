"""The process that studies one architecture: its memory goes back with it, and a crash ends nothing else.

`python -m optimizer_svc.study.process FOLDER` reads FOLDER/task.json and says on standard output, in JSON lines, how
far it is and at last what it found. It dies when its standard input ends, because then the study is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gramserve import log
from gramserve.errors import GramserveError
from optimizer_svc.process import job_environment
from optimizer_svc.study.spec import Task

TASK_FILE = "task.json"
COMMAND = (sys.executable, "-m", "optimizer_svc.study.process")


def run_apart(task: Task, folder: Path, progress: Callable[[str, float], None]) -> dict[str, Any]:
    """`study_architecture` in a process of its own; a failure of any kind is {"failure": a sentence}."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / TASK_FILE).write_bytes(task.to_json())
    process = subprocess.Popen(
        [*COMMAND, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=job_environment(os.environ),
        start_new_session=True,  # Ctrl-C reaches the study, which ends it
    )
    said: dict[str, Any] = {}
    try:
        assert process.stdout is not None
        for line in process.stdout:
            said = json.loads(line)
            if "message" in said:
                progress(said["message"], said["fraction"])
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        status = process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
    if "result" in said:
        return dict(said["result"])
    return {"failure": said.get("failure") or _ended(status)}


def main(folder: Path) -> None:
    """Study the architecture of `folder`/task.json and say what was found."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # what libraries print goes nowhere
    threading.Thread(target=_die_with_the_study, daemon=True).start()

    def say(**message: Any) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    try:
        from optimizer_svc.study.architecture import study_architecture  # noqa: PLC0415 - torch, and it may be broken

        task = Task.from_json((folder / TASK_FILE).read_bytes())
        found = study_architecture(
            task, folder, lambda text, fraction: say(message=text, fraction=fraction), time.monotonic
        )
    except GramserveError as error:
        say(failure=error.message)
    except MemoryError:
        say(failure="there was not enough memory")
    except Exception as error:
        say(failure=f"a fault in gramserve: {log.describe(error)}")
    else:
        say(result=found)


def _die_with_the_study() -> None:
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)


def _ended(status: int) -> str:
    if status == -signal.SIGKILL:
        return "its process was killed, most likely for want of memory"
    return f"its process ended: {signal.Signals(-status).name if status < 0 else f'exit status {status}'}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
