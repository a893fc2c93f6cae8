"""What must be true of a batch that has ended, and of the whole stack once nothing is open."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from gramserve.client import GramserveClient
from gramserve.queue import Queue
from gramserve.rpc.status import from_status
from gramserve.store.batches import BatchStore
from gramserve.store.objects import open_store
from gramserve.v1.slide_batch_pb2 import SlideBatch
from gramserve.v1.slide_pb2 import Slide
from tests.queue.lane import PLACES
from tests.soak.specimens import Specimen, fault
from tests.soak.stack import Stack

LABORATORY = "default"
REBUILT = 10**14
"""From here on a sequence is a time in microseconds: the queue was rebuilt, or Redis restarted; see docs/queue.md."""
ENDS = ("SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED")


@dataclass(slots=True)
class Submitted:
    """One batch as the soak knows it: what was asked for, and what was heard of it."""

    name: str
    request_id: str
    slides: list[Specimen]
    may_stop: bool = False
    told: Counter[int] = field(default_factory=Counter)
    """How often the end of each slide was told to its watcher."""
    jumped: bool = False
    """Whether its sequence jumped: Redis had lost what it knew, and some ends may have been told once more then."""
    watched: bool = False

    @property
    def id(self) -> str:
        return self.name.rpartition("/")[2]


@dataclass(slots=True)
class Tally:
    """What a soak has seen: counts, and what was wrong."""

    batches: int = 0
    slides: int = 0
    stat: int = 0
    """Slides called at once, beside the batches."""
    ends: Counter[str] = field(default_factory=Counter)
    innocent: int = 0
    """Good slides that three random kills gave up."""
    wounds: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


async def batch_is_right(client: GramserveClient, stack: Stack, batch: Submitted, tally: Tally) -> AsyncIterator[str]:
    """I1, I2 and the counts of an ended batch, from what clients get, from the store and from the events."""
    final = await client.get_batch(batch.name)
    slides = [slide async for slide in client.results(batch.name)]
    tally.batches, tally.slides = tally.batches + 1, tally.slides + len(batch.slides)
    if [slide.index for slide in slides] != list(range(len(batch.slides))):
        yield "I1: slides are missing or repeated in the results"
        return
    states = Counter(Slide.State.Name(slide.state).removeprefix("STATE_") for slide in slides)
    tally.ends += states
    counts = final.completion_stats
    said = {
        "SUCCEEDED": counts.succeeded_count,
        "FAILED": counts.failed_count,
        "CANCELLED": counts.cancelled_count,
        "EXPIRED": counts.expired_count,
    }
    if said != {state: states[state] for state in ENDS} or sum(said.values()) != counts.total_count:
        yield f"counts {said} of {counts.total_count} do not fit slides {dict(states)}"
    for specimen, slide in zip(batch.slides, slides, strict=True):
        reason = from_status(slide.error).reason.value if slide.state == Slide.STATE_FAILED else ""
        tally.innocent += specimen.good and reason == "WORKER_CRASHED"
        if wrong := fault(specimen, slide, reason, stopped=batch.may_stop):
            yield f"slide {slide.index}: {wrong}"
    async for wrong in _store_is_right(stack, batch, final, slides):
        yield wrong
    async for wrong in _events_are_right(stack.queue, batch):
        yield wrong
    if batch.watched and final.retry_round == 0:
        strange = {index: times for index in range(len(slides)) if (times := batch.told[index]) != 1}
        if strange and not (batch.jumped and all(strange.values())):
            yield f"I2: the ends of slides were told another number of times than once: {strange}"


async def _store_is_right(stack: Stack, batch: Submitted, final: SlideBatch, slides: list[Slide]) -> AsyncIterator[str]:
    store = BatchStore(open_store(stack.store))
    outcomes = {
        record.index: record.state.value async for record in store.outcomes(LABORATORY, batch.id, 0, len(slides))
    }
    ran = {
        slide.index: Slide.State.Name(slide.state).removeprefix("STATE_")
        for slide in slides
        if slide.state in (Slide.STATE_SUCCEEDED, Slide.STATE_FAILED)
    }
    if outcomes != ran:
        odd = {i: (outcomes.get(i), ran.get(i)) for i in outcomes.keys() | ran.keys() if outcomes.get(i) != ran.get(i)}
        yield f"I2: outcomes in the store and results differ: {odd}"
    end = await store.final(LABORATORY, batch.id, final.retry_round)
    if end is None or end.manifest_digest != final.output_info.manifest_digest:
        yield "the end in the store is missing or has another digest"
        return
    folder = Path(stack.store) / "batches" / LABORATORY / batch.id / "output" / str(final.retry_round)
    listed = json.loads(await asyncio.to_thread((folder / "manifest.json").read_text))["files"]
    rows = {file["name"]: file["rows"] for file in listed}
    if sum(rows.values()) != len(slides):
        yield f"rows of the output {rows} do not add up to {len(slides)}"


async def _events_are_right(queue: Queue, batch: Submitted) -> AsyncIterator[str]:
    """The log in Redis, as far as it is still there: no gap but where it was rebuilt, no slide ends twice."""
    events = await queue.events(f"{LABORATORY}/{batch.id}", 0, 100_000)
    sequences = [event.sequence for event in events]
    gaps = [
        (before, after)
        for before, after in itertools.pairwise(sequences)
        if not (after == before + 1 or after > max(before, REBUILT))
    ]
    if gaps:
        yield f"events have gaps: {gaps}"
    ends: dict[int, list[str]] = defaultdict(list)
    for event in events:
        if event.index >= 0 and event.state in ENDS:
            ends[event.index].append(event.state)
        if event.index >= 0 and event.state == "QUEUED" and ends[event.index] == ["FAILED"]:
            ends[event.index].clear()  # the next round begins
    twice = {index: states for index, states in ends.items() if len(states) > 1}
    if twice and not any(states[:-1] == ["FAILED"] * (len(states) - 1) for states in twice.values()):
        yield f"I2: slides ended twice in the event log: {twice}"


async def nothing_is_left(stack: Stack) -> AsyncIterator[str]:
    """I8 and I9: with no batch open no slide is in any place, and Redis and the store keep nothing of one."""
    prefix = "{gs:slides}:"
    for place in PLACES:
        if left := await stack.redis.zcard(f"{prefix}{place}"):
            yield f"I8: {left} slides are still {place}"
    for kind in ("entry", "pending"):
        if left := [key async for key in stack.redis.scan_iter(f"{prefix}{kind}:*")]:
            yield f"I9: {len(left)} keys {kind}:* are left in Redis"
    markers = [entry.path async for entry in open_store(stack.store).list("open")]
    if markers:
        yield f"{len(markers)} ended batches are still marked as open"


def errors_in_logs(stack: Stack, seen: dict[Path, int]) -> list[str]:
    """New lines of level error, and stack traces, since the last call; `seen` is where each log was read to."""
    found = []
    for log in stack.logs():
        with log.open("rb") as file:
            file.seek(seen.get(log, 0))
            data = file.read()
        seen[log] = seen.get(log, 0) + len(data)
        found += [
            f"{log.stem}: {line[:300]}"
            for line in data.decode(errors="replace").splitlines()
            if '"level": "error"' in line or line.startswith("Traceback")
        ]
    return found
