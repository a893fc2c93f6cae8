"""Outcomes that are due together are written together, and each is still judged by itself."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from pathlib import Path

from gramserve.errors import Exhausted, Reason, Unavailable
from gramserve.queue import Lease
from gramserve.store.batches import BatchStore
from gramserve.store.objects import LocalObjects
from gramserve.store.records import OutcomeRecord, SlideState
from inference_svc.depth import DEEPEST, SHALLOWEST, Depth
from inference_svc.recorder import Recorder
from inference_svc.slide import Slide
from inference_svc.storage import Storage
from tests.waiting import until


class WatchedObjects(LocalObjects):
    """A folder that counts its commits, waits in the first one, and fails as it is told."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.commits: list[int] = []
        self.gate = asyncio.Event()
        self.errors: list[Exception] = []
        self.poison = ""

    async def create_many(self, objects: Sequence[tuple[str, bytes]]) -> Sequence[bool]:
        self.commits.append(len(objects))
        await self.gate.wait()
        if self.errors:
            raise self.errors.pop()
        if self.poison and any(path.endswith(self.poison) for path, _ in objects):
            raise Exhausted(Reason.STORE_FULL, "full", retry_after_s=1.0)
        return await super().create_many(objects)


class Desk:
    """A recorder with a clock that stands still at 0 and slides whose leases end at 10."""

    def __init__(self, folder: Path) -> None:
        self.objects = WatchedObjects(folder)
        self.store = BatchStore(self.objects)
        self.storage = Storage(self.objects.probe, lambda: None)
        self.now_s = 0.0
        self.held = 0
        self.recorder = Recorder(
            self.store, self.storage, held=lambda: self.held, clock=lambda: self.now_s, jitter=lambda: -0.48
        )
        self._numbers = itertools.count()

    def slide(self, deadline_s: float = 10.0, *, stat: bool = False) -> Slide:
        number = next(self._numbers)
        lease = Lease("lab/b", number, 0, f"t{number}", 0, 0, False, "models/m/versions/1", "d", 0.0, 10.0, stat)
        return Slide(lease, deadline_s)

    def record(self, slide: Slide) -> asyncio.Task[bool | None]:
        outcome = OutcomeRecord(slide.lease.index, 0, SlideState.SUCCEEDED, call={})
        return asyncio.create_task(self.recorder.record(slide, outcome))

    async def recorded(self) -> list[int]:
        return await self.store.recorded("lab", "b", 0)


async def test_what_becomes_due_during_a_commit_goes_with_the_next_one(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    first = desk.record(desk.slide())
    await until(lambda: desk.objects.commits)
    others = [desk.record(desk.slide()) for _ in range(70)]
    await asyncio.sleep(0)
    desk.objects.gate.set()
    assert await asyncio.gather(first, *others) == [True] * 71
    assert desk.objects.commits == [1, 64, 6]
    assert await desk.recorded() == list(range(71))


async def test_an_outcome_waits_for_those_of_slides_that_still_run(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.objects.gate.set()
    desk.held = 3
    records = [desk.record(desk.slide()) for _ in range(2)]
    await asyncio.sleep(0)
    assert desk.objects.commits == []
    records.append(desk.record(desk.slide()))
    assert await asyncio.gather(*records) == [True] * 3
    assert desk.objects.commits == [3]


async def test_a_STAT_slide_waits_for_nobody(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.held = 100
    first = desk.record(desk.slide())
    await until(lambda: desk.objects.commits)
    urgent = desk.record(desk.slide(stat=True))
    await until(lambda: len(desk.objects.commits) == 2)  # while the first commit is under way
    desk.objects.gate.set()
    assert await asyncio.gather(first, urgent) == [True] * 2
    assert desk.objects.commits == [1, 1]


async def test_I2_an_outcome_that_is_there_already_stays_and_its_neighbours_are_written(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.objects.gate.set()
    slides = [desk.slide() for _ in range(3)]
    await desk.store.record_outcome("lab", "b", OutcomeRecord(1, 0, SlideState.FAILED))
    assert await asyncio.gather(*(desk.record(slide) for slide in slides)) == [True, False, True]
    kept = await desk.store.outcome("lab", "b", 1)
    assert kept is not None
    assert kept.state is SlideState.FAILED


async def test_I5_nothing_is_written_past_the_deadline_of_a_slide_or_after_its_lease_was_lost(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    first = desk.record(desk.slide())
    await until(lambda: desk.objects.commits)
    late, lost, ours = desk.slide(deadline_s=0.0), desk.slide(), desk.slide()
    records = [desk.record(slide) for slide in (late, lost, ours)]
    await asyncio.sleep(0)
    lost.lose()
    desk.objects.gate.set()
    assert (await first, await records[1], await records[2]) == (True, None, True)
    assert await desk.recorded() == [0, 3]
    late.deadline_s = 10.0  # renewed
    assert await records[0]
    assert await desk.recorded() == [0, 1, 3]


async def test_a_store_that_is_away_is_tried_again_and_all_are_written(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.objects.gate.set()
    away = Unavailable(Reason.STORE_UNAVAILABLE, "away", retry_after_s=1.0)
    desk.objects.errors = [away] * 6
    assert await asyncio.gather(*(desk.record(desk.slide()) for _ in range(5))) == [True] * 5
    assert await desk.recorded() == [0, 1, 2, 3, 4]


async def test_an_outcome_that_cannot_be_written_holds_up_no_other(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.objects.gate.set()
    desk.objects.poison = "000001.json"
    slides = [desk.slide() for _ in range(4)]
    records = [desk.record(slide) for slide in slides]
    assert await asyncio.gather(*(records[number] for number in (0, 2, 3))) == [True] * 3
    slides[1].lose()
    assert await records[1] is None


async def test_only_quick_slides_are_held_in_stock() -> None:
    depth = Depth()
    assert depth.slides == SHALLOWEST
    for _ in range(100):
        depth.seen(0.002)
    assert depth.slides in {20, 21}
    for _ in range(100):
        depth.seen(0.0)
    assert depth.slides == DEEPEST
    depth.seen(0.5)
    assert depth.slides == SHALLOWEST
