"""The client's process as the benchmark holds it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.peers.environments import CLIENT, python


class Load:
    """Asks the client to wait for a server, or to drive it."""

    def __init__(self, edge: int) -> None:
        command = [str(python(CLIENT)), str(Path(__file__).with_name("load.py")), str(edge)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def wait(self, target: str, model: str, seconds: float) -> str:
        """Empty when the model is ready, else why it is not."""
        return str(self._ask(do="wait", target=target, model=model, seconds=seconds).get("error", ""))

    def drive(self, target: str, model: str, callers: int, seconds: float) -> dict[str, Any]:
        """What `callers` callers got in so many seconds: images, images_per_s, p50_ms, p99_ms, logits of one tile."""
        return self._ask(do="drive", target=target, model=model, callers=callers, seconds=seconds)

    def _ask(self, **task: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the client ended in the middle of a measurement")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
