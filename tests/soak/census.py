"""What a process holds, counted when a signal tells it to: imported there it listens, and `take` asks from here.

Objects are counted and not bytes: how many there are does not depend on the machine, nor on what malloc gives back.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sys
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from tests.waiting import until

FOLDER = "GRAMSERVE_TEST_CENSUS_FOLDER"
"""Where answers are written; a child may write below the folder for temporary files only."""

_ASK = signal.SIGUSR1
_CONTAINERS = (dict, list, set, deque)
# asyncio keeps up to a hundred cancelled timers, however long it runs.
_TIMERS = {"TimerHandle", "Context"}


@dataclass(frozen=True, slots=True)
class Census:
    """Objects by type, `members` of all containers of a type together, and memory blocks of the interpreter."""

    objects: Counter[str]
    members: Counter[str]
    blocks: int

    def grown(self, before: Census, most: int) -> dict[str, int]:
        """What grew by more than `most`, and by how much; blocks may by ten times that: an object has several."""
        more = {f"{name} objects": self.objects[name] - before.objects[name] for name in self.objects}
        more |= {f"members of {name}s": self.members[name] - before.members[name] for name in self.members}
        found = {what: count for what, count in more.items() if count > most}
        if (blocks := self.blocks - before.blocks) > 10 * most:
            found["blocks"] = blocks
        return found


async def take(folder: Path, pid: int) -> Census:
    """The census of a process that imported this module."""
    path = folder / str(pid)
    path.unlink(missing_ok=True)
    os.kill(pid, _ASK)
    await until(path.exists, 60, "the process counted what it holds")
    said = json.loads(await asyncio.to_thread(path.read_text))
    return Census(Counter(said["objects"]), Counter(said["members"]), said["blocks"])


def listen(_work: object = None) -> None:
    """Count when the signal comes; also the hook of a child, called with each slide."""
    if signal.getsignal(_ASK) is not _answer:
        signal.signal(_ASK, _answer)


def _answer(_number: int, _frame: FrameType | None) -> None:
    for _ in range(2):  # what finalizers let go is seen the second time
        gc.collect()
    objects, members = count(gc.get_objects())
    said = json.dumps({"objects": objects, "members": members, "blocks": sys.getallocatedblocks()})
    path = Path(os.environ[FOLDER]) / str(os.getpid())
    unfinished = path.with_suffix(".new")
    unfinished.write_text(said)
    unfinished.replace(path)


def count(known: Iterable[Any]) -> tuple[Counter[str], Counter[str]]:
    """Objects and members of containers among `known`, by type.

    The collector does not know dicts of plain values, so what its objects refer to is looked at, too.
    """
    objects: Counter[str] = Counter()
    members: Counter[str] = Counter()
    seen: set[int] = set()
    for one in known:
        if type(one).__name__ not in _TIMERS:
            objects[type(one).__name__] += 1
        for container in (one, *gc.get_referents(one)):
            if isinstance(container, _CONTAINERS) and id(container) not in seen:
                seen.add(id(container))
                members[type(container).__name__] += len(container)
    return objects, members


if FOLDER in os.environ:
    listen()
