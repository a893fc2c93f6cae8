"""Named points in the services at which a test lets a process wait, die, stop or fail.

Only a process that was started by `tests.faults.run` has them, and the children of such a worker: functions of the
product are wrapped there, and the product knows nothing of it. What shall happen at a point stands in a file of the
folder that the environment names, so a test can decide it at any time; who passes leaves a line in a second file.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import functools
import importlib
import inspect
import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tests.waiting import HANGS_S, until

FOLDER = "GRAMSERVE_TEST_POINTS"
Action = Literal["note", "wait", "kill", "term", "stop", "raise"]


@dataclass(frozen=True, slots=True)
class Point:
    """A place: before or after one function ("module:Class.method" or "module:function")."""

    target: str
    when: Literal["before", "after"]


# By service and name; other tests may add theirs to these before the processes start: see `tests.faults.run`.
POINTS: dict[str, dict[str, Point]] = {
    "gateway": {
        "gateway.requested": Point("gramserve.store.batches:BatchStore.create_request", "after"),
        "gateway.manifest": Point("gramserve.store.batches:BatchStore.write_manifest", "after"),
        "gateway.committed": Point("gramserve.store.batches:BatchStore.create_batch", "after"),
        "gateway.opened": Point("gramserve.queue.queue:Queue.open", "after"),
        "gateway.queued": Point("gateway.placement:Placement.place_new", "after"),
        "gateway.output": Point("gateway.output:OutputWriter._put", "before"),
        "gateway.finalizing": Point("gramserve.store.batches:BatchStore.finalize", "before"),
        "gateway.finalized": Point("gramserve.store.batches:BatchStore.finalize", "after"),
        "gateway.told": Point("gramserve.queue.queue:Queue.finish", "after"),
        "gateway.stopped": Point("gramserve.store.batches:BatchStore.stop", "after"),
        "gateway.sweeping": Point("gramserve.queue.queue:Queue.reclaim", "before"),
        "gateway.condemned": Point("gateway.sweep:Sweeper._quarantine", "before"),
    },
    "worker": {
        "worker.leased": Point("inference_svc.runner:Runner.run", "before"),
        "worker.recording": Point("gramserve.store.batches:BatchStore.record_outcomes", "before"),
        "worker.recorded": Point("gramserve.store.batches:BatchStore.record_outcomes", "after"),
        "worker.completed": Point("gramserve.queue.queue:Queue.complete_many", "after"),
        "worker.renewing": Point("gramserve.queue.queue:Queue.renew", "before"),
    },
    "optimizer": {
        "optimizer.accepted": Point("optimizer_svc.optimizations:Optimizations.create", "after"),
        "optimizer.leased": Point("optimizer_svc.jobs:Jobs.run", "before"),
        "optimizer.heard": Point("optimizer_svc.keeping:Keeper.take", "before"),
        "optimizer.packed": Point("optimizer_svc.publishing:Publisher.publish", "before"),
        "optimizer.published": Point("optimizer_svc.publishing:Publisher.publish", "after"),
        "optimizer.ended": Point("optimizer_svc.optimizations:Optimizations.finish", "after"),
    },
}
# In the child, by `tests.faults.engine`.
CHILD_POINTS = ("child.begun", "child.middle", "child.read")


class Points:
    """The test's end: what shall happen at the points of all processes that were given this folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def at(self, point: str, action: Action, *, nth: int = 1, code: str = "") -> None:
        """At the `nth` passing from now on, over all processes, `action` happens; 0 is at every passing.

        "note" only leaves a line, as every action does. "wait" waits for `go`. "raise" raises OSError with the errno
        named `code`, or RuntimeError.
        """
        step = {"action": action, "nth": nth + self.passed(point) if nth else 0, "code": code}
        self._path(point, "go").unlink(missing_ok=True)
        part = self._path(point, "part")
        part.write_text(json.dumps(step))
        part.rename(self._path(point, "step"))

    def off(self, point: str) -> None:
        """Nothing happens there any more, and whoever waits goes on."""
        self._path(point, "step").unlink(missing_ok=True)
        self.go(point)

    def go(self, point: str) -> None:
        """Whoever waits there goes on."""
        self._path(point, "go").touch()

    def passed(self, point: str) -> int:
        """How often a process passed the point while a step stood there."""
        return len(self.passers(point))

    def passers(self, point: str) -> list[int]:
        """The process ids of those who did, in order."""
        path = self._path(point, "passed")
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    async def reached(self, point: str, *, times: int = 1, timeout_s: float = HANGS_S) -> int:
        """Waits until the point was passed `times` times in all; the process id of who was the last of these."""
        await until(lambda: self.passed(point) >= times, timeout_s, f"{point} reached {times} times")
        return self.passers(point)[times - 1]  # others may have passed since

    def _path(self, point: str, kind: str) -> Path:
        return self.folder / f"{point}.{kind}"


def install(role: str) -> None:
    """Wraps what the points of this service name, in this process."""
    for name, point in POINTS[role].items():
        wrap(name, point)


def wrap(name: str, point: Point) -> None:
    """Has every call of the function at `point` pass there."""
    module, _, path = point.target.partition(":")
    *owners, attribute = path.split(".")
    owner: Any = functools.reduce(getattr, owners, importlib.import_module(module))
    setattr(owner, attribute, _wrapped(name, point, getattr(owner, attribute)))


def _wrapped(name: str, point: Point, function: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def passing(*args: Any, **kwargs: Any) -> Any:
            if point.when == "before":
                await _pass_async(name)
            result = await function(*args, **kwargs)
            if point.when == "after":
                await _pass_async(name)
            return result

        return passing

    @functools.wraps(function)
    def passing_at_once(*args: Any, **kwargs: Any) -> Any:
        if point.when == "before":
            reach(name)
        result = function(*args, **kwargs)
        if point.when == "after":
            reach(name)
        return result

    return passing_at_once


def reach(name: str) -> None:
    """Pass a point; a wait stops this thread."""
    if (waits_for := _act(name)) is not None:
        while not waits_for.exists():
            time.sleep(0.01)


async def _pass_async(name: str) -> None:
    """Pass a point; a wait stops this task and nothing else."""
    if (waits_for := _act(name)) is not None:
        while not waits_for.exists():
            await asyncio.sleep(0.01)


def _act(name: str) -> Path | None:
    """Does what stands in the step's file; the file to wait for, where that is it."""
    folder = Path(os.environ[FOLDER])
    try:
        step = json.loads((folder / f"{name}.step").read_bytes())
    except FileNotFoundError:
        return None
    with (folder / f"{name}.passed").open("a+") as passed:
        fcntl.flock(passed, fcntl.LOCK_EX)
        passed.seek(0)
        number = len(passed.read().split()) + 1
        passed.write(f"{os.getpid()}\n")
    if step["nth"] not in {0, number}:
        return None
    match step["action"]:
        case "wait":
            return folder / f"{name}.go"
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "term":
            os.kill(os.getpid(), signal.SIGTERM)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "raise":
            if step["code"]:
                raise OSError(getattr(errno, step["code"]), os.strerror(getattr(errno, step["code"])))
            raise RuntimeError("a fault that a test asked for")
    return None
