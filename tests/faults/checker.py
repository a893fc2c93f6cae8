"""What must hold after every fault, read from the store, from Redis and from the event log: I1, I2, I8, I9."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from gramserve.queue import Event
from gramserve.store.records import BatchRecord, FinalRecord, SlideState
from tests.faults.harness import Site, key_of
from tests.waiting import HANGS_S, until

_ENDS = {"SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED"}
_TAG = "{gs:slides}"
_SETS = ("ready", "leased", "delayed")

# In one step: the entries of each set, and per batch how many slides its bitmap says are in the queue.
_PLACES = """
local found = {}
for _, set in ipairs({'ready', 'leased', 'delayed'}) do
  table.insert(found, redis.call('ZRANGE', KEYS[1] .. ':' .. set, 0, -1))
end
for _, batch in ipairs(ARGV) do
  table.insert(found, redis.call('BITCOUNT', KEYS[1] .. ':pending:' .. batch))
end
return found
"""


@dataclass(slots=True)
class Found:
    """What a check found: slides by what became of them, and each promise that does not hold, as a sentence."""

    batches: int = 0
    accepted: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    duplicated: int = 0
    refused: int = 0
    """Second results and stale transitions that the queue refused, which is what it should do."""
    crashes: int = 0
    broken: list[str] = field(default_factory=list)

    def held(self) -> None:
        """Fails the test unless everything holds."""
        assert not self.broken, "\n".join(self.broken)


async def check(site: Site, *, gapless: bool = True, timeout_s: float = HANGS_S) -> Found:
    """Waits until every accepted batch has ended, then `inspect`s; fails the test unless everything holds."""
    await site.ended(timeout_s=timeout_s)
    found = await inspect(site, gapless=gapless)
    found.held()
    return found


async def inspect(site: Site, *, gapless: bool = True) -> Found:
    """All that can be said of the batches in the store, none of which should be open any more.

    `gapless` False: Redis lost something on the way, so events may be missing, but none may be there twice.
    Events begin at 1, or far above where the reconciler queued the batch; none between the first and the last may miss.
    """
    found = Found()
    accepted = {key_of(name): count for name, count in site.accepted.items()}
    there = await _batches(site)
    for laboratory, batch in accepted.keys() - {(one.laboratory, one.batch) for one in there}:
        found.broken.append(f"I1: the accepted batch {laboratory}/{batch} is not in the store")
        found.lost += accepted[laboratory, batch]
    for record in there:
        found.batches += 1
        found.accepted += record.slide_count
        expected = accepted.get((record.laboratory, record.batch), record.slide_count)
        if record.slide_count != expected:
            found.broken.append(f"I1: {record.batch} has {record.slide_count} slides, {expected} were accepted")
        await _look_at(site, record, found, gapless)
    await _nothing_left(site, found)
    tallies = await site.queue.tallies()
    found.refused = tallies.get("refused", 0) + tallies.get("repeated", 0)
    found.crashes = tallies.get("crashes", 0)
    return found


async def in_one_place(site: Site, *names: str) -> int:
    """I8 now, in the middle of things: how many slides of these batches are in the queue, each in exactly one place."""
    keys = ["/".join(key_of(name)) for name in names]
    redis: Any = site.redis_client
    ready, leased, delayed, *pending = await redis.eval(_PLACES, 1, _TAG, *keys)
    entries = [entry for entry in (*ready, *leased, *delayed) if entry.rpartition("/")[0] in keys]
    twice = [entry for entry, times in Counter(entries).items() if times > 1]
    assert not twice, f"I8: in two places: {twice}"
    assert len(entries) == sum(pending), f"I8: {len(entries)} slides in places, {sum(pending)} are live"
    return len(entries)


async def _batches(site: Site) -> list[BatchRecord]:
    records = [
        await site.batches.get_batch(laboratory, batch)
        for laboratory in await site.objects.folders("batches")
        for batch in await site.objects.folders(f"batches/{laboratory}")
    ]
    # One whose create broke off before its commit is no batch.
    return [record for record in records if record is not None]


async def _look_at(site: Site, record: BatchRecord, found: Found, gapless: bool) -> None:
    laboratory, batch = record.laboratory, record.batch
    number = await site.batches.current_round(laboratory, batch)
    outcomes = {outcome.index: outcome async for outcome in site.batches.outcomes(laboratory, batch)}
    final = await site.batches.final(laboratory, batch, number)
    if final is None:
        found.lost += record.slide_count - len(outcomes)
        found.broken.append(f"I1: {batch} has not ended; {len(outcomes)} of {record.slide_count} slides have")
        return
    letters = final.slide_states
    states = [SlideState.from_letter(letter) for letter in letters]
    found.ended.update(state.value for state in states)
    if len(letters) != record.slide_count:
        found.lost += record.slide_count - len(letters)
        found.broken.append(f"I1: {batch} ended with {len(letters)} of {record.slide_count} slides")
    for index, state in enumerate(states):
        outcome = outcomes.get(index)
        if state in {SlideState.SUCCEEDED, SlideState.FAILED}:
            if outcome is None or outcome.state is not state:
                found.lost += 1
                found.broken.append(f"I1: slide {index} of {batch} is {state} and its outcome is not in the store")
        elif outcome is not None and outcome.round == number:
            found.lost += 1
            found.broken.append(f"I1: slide {index} of {batch} has a result and was told as {state}")
    counts, by_state = final.counts, Counter(state.value for state in states)
    told = (counts.succeeded, counts.failed, counts.cancelled, counts.expired)
    really = tuple(by_state[state] for state in ("SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED"))
    if told != really or sum(told) != counts.total or counts.total != record.slide_count:
        found.broken.append(f"I1: the counts of {batch} do not add up: {counts}, slides are {dict(by_state)}")
    await _output(site, record, final, number, found)
    await _events(site, record, final, states, number, found, gapless)


async def _output(site: Site, record: BatchRecord, final: FinalRecord, number: int, found: Found) -> None:
    """The delivered files hold each slide once, as the end says, and are those of the manifest."""

    async def read(name: str) -> bytes:
        return await site.objects.get(site.batches.output_path(record.laboratory, record.batch, number, name))

    manifest = await read("manifest.json")
    if hashlib.sha256(manifest).hexdigest() != final.manifest_digest:
        found.broken.append(f"I1: the output of {record.batch} is not that of its end")
    rows: Counter[int] = Counter()
    for file in json.loads(manifest)["files"]:
        data = await read(file["name"])
        if hashlib.sha256(data).hexdigest() != file["sha256"]:
            found.broken.append(f"I1: {file['name']} of {record.batch} is not what its manifest says")
        for line in data.splitlines():
            slide = json.loads(line)
            index = int(slide.get("index", 0))
            rows[index] += 1
            letter = final.slide_states[index]
            if slide["state"] != f"STATE_{SlideState.from_letter(letter).value}":
                found.broken.append(f"I1: row {index} of {record.batch} says {slide['state']}, its end {letter}")
    found.duplicated += sum(times - 1 for times in rows.values())
    if rows != Counter(range(record.slide_count)):
        found.broken.append(f"I2: the rows of {record.batch} are not each slide once")


async def _events(
    site: Site,
    record: BatchRecord,
    final: FinalRecord,
    states: list[SlideState],
    number: int,
    found: Found,
    gapless: bool,
) -> None:
    key = f"{record.laboratory}/{record.batch}"

    async def finished() -> bool:
        snapshot = await site.queue.snapshot(key)
        return snapshot is None or bool(snapshot.finished)

    await until(finished, what=f"Redis was told of the end of {key}")
    events = await _all_events(site, key)
    if not events:
        if gapless:
            found.broken.append(f"I2: {key} has no events")
        return
    sequences = [event.sequence for event in events]
    if any(later <= earlier for earlier, later in itertools.pairwise(sequences)):
        found.broken.append(f"I2: the events of {key} do not rise")
    if gapless and sequences != list(range(sequences[0], sequences[0] + len(events))):
        found.broken.append(f"I2: the events of {key} have gaps: {sequences}")
    if events[-1].index != -1 or events[-1].state != final.state.value:
        found.broken.append(f"I2: the last event of {key} is {events[-1]}, it ended as {final.state}")
    ends = Counter(event.index for event in events if event.index >= 0 and event.state in _ENDS)
    repeats = {index: times for index, times in ends.items() if times > number + 1}
    if repeats:
        found.duplicated += sum(times - number - 1 for times in repeats.values())
        found.broken.append(f"I2: slides of {key} ended twice in the event log: {repeats}")
    if gapless and number == 0:
        last = {event.index: event.state for event in events if event.index >= 0 and event.state in _ENDS}
        if last != {index: state.value for index, state in enumerate(states)}:
            found.broken.append(f"I2: the events of {key} tell other ends than the store")


async def _all_events(site: Site, key: str) -> list[Event]:
    events: list[Event] = []
    while some := await site.queue.events(key, events[-1].sequence if events else 0, 10_000):
        events += some
    return events


async def _nothing_left(site: Site, found: Found) -> None:
    """I8 and I9 after a drain: no slide is anywhere, and nothing is kept of any."""
    redis: Any = site.redis_client
    for name in (*_SETS, "drained"):
        if left := await redis.zrange(f"{_TAG}:{name}", 0, -1):
            found.broken.append(f"I8: still in {name} after the drain: {left}")
    for kind in ("entry", "pending"):
        if left := [key async for key in redis.scan_iter(f"{_TAG}:{kind}:*", count=1000)]:
            found.broken.append(f"I9: kept after the drain: {left}")
