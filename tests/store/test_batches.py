"""Batches in the store: first writer wins, chunks, rounds, ends, and what is still open."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gramserve.errors import AlreadyExists, NotFound, Reason
from gramserve.store.batches import CHUNK_SLIDES, BatchStore
from gramserve.store.codec import RecordCorrupt
from gramserve.store.objects import ObjectStore
from gramserve.store.records import (
    BatchRecord,
    BatchState,
    Counts,
    ErrorRecord,
    FinalRecord,
    ImageRecord,
    OutcomeRecord,
    Priority,
    RequestRecord,
    RoundRecord,
    SlideRecord,
    SlideState,
    StopRecord,
)


def slides(count: int, name: str = "slide") -> list[SlideRecord]:
    return [SlideRecord(n, f"{name}-{n}", (ImageRecord(sha256=f"{n:064x}"),)) for n in range(count)]


def batch(name: str = "b1", count: int = 3, laboratory: str = "lab", create_time: float = 1.0) -> BatchRecord:
    version = "models/m/versions/3"
    return BatchRecord(
        laboratory,
        name,
        f"r-{name}",
        "f",
        "models/m",
        version,
        "d",
        count,
        Priority.ROUTINE,
        None,
        0.0,
        {},
        create_time,
    )


def succeeded(index: int, number: int = 0, worker_id: str = "w1") -> OutcomeRecord:
    return OutcomeRecord(index, number, SlideState.SUCCEEDED, call={}, worker_id=worker_id)


def failed(index: int, number: int = 0) -> OutcomeRecord:
    return OutcomeRecord(index, number, SlideState.FAILED, error=ErrorRecord("CORRUPT_IMAGE", "cut off"))


def final(number: int = 0, last_sequence: int = 0) -> FinalRecord:
    return FinalRecord(number, BatchState.SUCCEEDED, Counts(3, succeeded=3), "SSS", last_sequence=last_sequence)


async def accept(store: BatchStore, record: BatchRecord) -> None:
    await store.write_manifest(record.laboratory, record.batch, slides(record.slide_count))
    await store.create_batch(record)


async def unfinished(store: BatchStore) -> list[tuple[str, str]]:
    return [key async for key in store.unfinished()]


@pytest.mark.slow
async def test_I3_concurrent_requests_with_one_id_get_one_batch(objects: ObjectStore) -> None:
    stores = [BatchStore(objects) for _ in range(3)]
    asked = [RequestRecord(f"b{n}", f"f{n}") for n in range(30)]
    got = await asyncio.gather(*(stores[n % 3].create_request("lab", "r1", asked[n]) for n in range(30)))
    assert len(set(got)) == 1
    assert got[0] in asked
    assert await stores[0].create_request("lab2", "r1", asked[7]) == asked[7]


@pytest.mark.slow
async def test_I3_concurrent_creates_of_one_batch_keep_one_record(objects: ObjectStore) -> None:
    records = [replace(batch(), fingerprint=str(n)) for n in range(20)]
    got = await asyncio.gather(*(BatchStore(objects).create_batch(record) for record in records))
    assert len({record.fingerprint for record in got}) == 1
    assert await BatchStore(objects).get_batch("lab", "b1") == got[0]
    assert await BatchStore(objects).get_batch("lab", "b2") is None
    assert await BatchStore(objects).get_batch("lab2", "b1") is None


async def test_a_manifest_in_chunks_gives_any_slide_and_any_range(objects: ObjectStore) -> None:
    count = 2 * CHUNK_SLIDES + 17
    store = BatchStore(objects)
    await accept(store, batch(count=count))
    all_slides = slides(count)
    fresh = BatchStore(objects)
    for index in (0, count - 1, CHUNK_SLIDES, CHUNK_SLIDES - 1, 1500):
        assert await fresh.slide("lab", "b1", index) == all_slides[index]
    assert [slide async for slide in fresh.slides("lab", "b1", 990, 1010)] == all_slides[990:1010]
    assert [slide async for slide in fresh.slides("lab", "b1", 2010, 9999)] == all_slides[2010:]
    assert len([slide async for slide in fresh.slides("lab", "b1")]) == count
    for index in (count, 3 * CHUNK_SLIDES):
        with pytest.raises(NotFound):
            await fresh.slide("lab", "b1", index)
    with pytest.raises(NotFound) as caught:
        _ = [slide async for slide in fresh.slides("lab", "b2")]
    assert caught.value.reason is Reason.UNKNOWN_BATCH


async def test_I3_a_manifest_may_be_written_again_but_not_with_other_slides(objects: ObjectStore) -> None:
    store = BatchStore(objects)
    count = CHUNK_SLIDES + 5
    await store.write_manifest("lab", "b1", slides(count))
    await store.write_manifest("lab", "b1", slides(count))
    changed = [*slides(count)[:-1], SlideRecord(count - 1, "other", ())]
    for others in (slides(count, "other"), changed, slides(3)):
        with pytest.raises(AlreadyExists) as caught:
            await store.write_manifest("lab", "b1", others)
        assert caught.value.reason is Reason.BATCH_ID_TAKEN
    await store.create_batch(batch(count=count))
    assert (await BatchStore(objects).slide("lab", "b1", count - 1)).slide_id == f"slide-{count - 1}"


async def test_I3_of_two_requests_racing_for_one_batch_id_one_owns_the_whole_manifest(objects: ObjectStore) -> None:
    names = [f"name{n}" for n in range(8)]
    count = 2 * CHUNK_SLIDES
    writes = (BatchStore(objects).write_manifest("lab", "b1", slides(count, name)) for name in names)
    done = await asyncio.gather(*writes, return_exceptions=True)
    (winner,) = [name for name, error in zip(names, done, strict=True) if error is None]
    await BatchStore(objects).create_batch(batch(count=count))
    assert {slide.slide_id.split("-")[0] async for slide in BatchStore(objects).slides("lab", "b1")} == {winner}


async def test_slides_out_of_order_are_not_written(objects: ObjectStore) -> None:
    with pytest.raises(ValueError, match="numbered"):
        await BatchStore(objects).write_manifest("lab", "b1", slides(3)[::-1])


@pytest.mark.slow
async def test_I2_a_slide_has_one_outcome_in_a_round_and_it_is_the_first(objects: ObjectStore) -> None:
    outcomes = [succeeded(5, worker_id=f"w{n}") for n in range(20)]
    done = await asyncio.gather(*(BatchStore(objects).record_outcome("lab", "b1", outcome) for outcome in outcomes))
    assert sum(done) == 1
    assert await BatchStore(objects).outcome("lab", "b1", 5) == outcomes[done.index(True)]
    assert await BatchStore(objects).outcome("lab", "b1", 6) is None


async def test_the_outcome_of_the_latest_round_counts(objects: ObjectStore) -> None:
    store = BatchStore(objects)
    await accept(store, batch(count=12))
    first = [failed(n) if n % 3 == 0 else succeeded(n) for n in range(11)]  # slide 11 was cancelled
    for outcome in first:
        await store.record_outcome("lab", "b1", outcome)
    assert [outcome async for outcome in store.outcomes("lab", "b1")] == first

    await store.create_round("lab", "b1", RoundRecord(1, "r", (0, 3, 6, 9), 1.0))
    assert [outcome async for outcome in store.outcomes("lab", "b1")] == first
    for outcome in (succeeded(3, 1), failed(6, 1)):
        await store.record_outcome("lab", "b1", outcome)
    for number in range(2, 12):
        await store.create_round("lab", "b1", RoundRecord(number, "r", (6,), 1.0))
    await store.record_outcome("lab", "b1", succeeded(6, 11))

    expected = {**dict(enumerate(first)), 3: succeeded(3, 1), 6: succeeded(6, 11)}
    fresh = BatchStore(objects)
    assert [outcome async for outcome in fresh.outcomes("lab", "b1")] == list(expected.values())
    assert [outcome async for outcome in fresh.outcomes("lab", "b1", 2, 7)] == [expected[n] for n in range(2, 7)]
    assert [await fresh.outcome("lab", "b1", n) for n in (0, 3, 6, 11)] == [first[0], expected[3], expected[6], None]
    assert await fresh.recorded("lab", "b1", 0) == list(range(11))
    assert await fresh.recorded("lab", "b1", 0, 3, 5) == [3, 4]
    assert await fresh.recorded("lab", "b1", 1) == [3, 6]
    assert await fresh.recorded("lab", "b1", 2) == []


@pytest.mark.slow
async def test_rounds_are_numbered_and_the_first_request_of_a_number_keeps_it(objects: ObjectStore) -> None:
    store = BatchStore(objects)
    assert await store.current_round("lab", "b1") == 0
    assert await store.get_rounds("lab", "b1") == []
    asked = [RoundRecord(1, f"r{n}", (1,), 1.0) for n in range(20)]
    got = await asyncio.gather(*(store.create_round("lab", "b1", record) for record in asked))
    assert len(set(got)) == 1
    for number in range(2, 13):
        await store.create_round("lab", "b1", RoundRecord(number, "r", (1,), 1.0))
    assert await store.current_round("lab", "b1") == 12
    assert [record.round for record in await store.get_rounds("lab", "b1")] == list(range(1, 13))


async def test_the_first_stop_of_a_round_counts(objects: ObjectStore) -> None:
    store = BatchStore(objects)
    assert await store.get_stop("lab", "b1", 0) is None
    first = StopRecord("CANCELLED", 1.0)
    assert await store.stop("lab", "b1", 0, first) == first
    assert await store.stop("lab", "b1", 0, StopRecord("TOO_MANY_FAILURES", 2.0)) == first
    assert await store.get_stop("lab", "b1", 0) == first
    assert await store.get_stop("lab", "b1", 1) is None


@pytest.mark.slow
async def test_of_concurrent_finalizers_one_says_how_the_batch_ended(objects: ObjectStore) -> None:
    ends = [final(last_sequence=n) for n in range(20)]
    got = await asyncio.gather(*(BatchStore(objects).finalize("lab", "b1", end) for end in ends))
    assert len({end.last_sequence for end in got}) == 1
    assert await BatchStore(objects).final("lab", "b1", 0) == got[0]
    assert await BatchStore(objects).final("lab", "b1", 1) is None


async def test_I1_a_batch_is_unfinished_from_its_commit_to_its_end_in_every_round(objects: ObjectStore) -> None:
    store = BatchStore(objects)
    await store.write_manifest("lab", "b1", slides(3))
    assert await unfinished(store) == []
    await store.create_batch(batch())
    await accept(store, batch("b0", laboratory="lab2"))
    assert await unfinished(BatchStore(objects)) == [("lab", "b1"), ("lab2", "b0")]
    await store.finalize("lab", "b1", final())
    assert await unfinished(BatchStore(objects)) == [("lab2", "b0")]
    await store.create_round("lab", "b1", RoundRecord(1, "r", (0,), 1.0))
    assert await unfinished(BatchStore(objects)) == [("lab", "b1"), ("lab2", "b0")]
    await store.finalize("lab", "b1", final())  # a slow second finalizer of round 0
    assert await unfinished(BatchStore(objects)) == [("lab", "b1"), ("lab2", "b0")]
    await store.finalize("lab", "b1", final(1))
    await store.finalize("lab2", "b0", final())
    assert await unfinished(BatchStore(objects)) == []
    assert [info.path async for info in objects.list("open")] == []


async def test_I1_dying_between_two_writes_leaves_no_batch_open_or_forgotten(objects: ObjectStore) -> None:
    store = BatchStore(objects)
    # Died after the marker, before the commit: not accepted, so not unfinished; the same create again works.
    await objects.create("open/lab/b1.0", b"\n")
    await objects.create("open/lab/b1.1", b"\n")
    assert await unfinished(store) == []
    await accept(store, batch())
    assert await unfinished(store) == [("lab", "b1")]
    # Died after the end was written, before the marker went.
    await objects.create("batches/lab/b1/final/0.json", final().to_json())
    assert await unfinished(store) == []
    assert [info.path async for info in objects.list("open")] == ["open/lab/b1.1"]
    # A repeated create of a batch that ended does not open it again.
    await BatchStore(objects).create_batch(batch())
    assert await unfinished(store) == []
    await store.create_round("lab", "b1", RoundRecord(1, "r", (0,), 1.0))
    assert await unfinished(store) == [("lab", "b1")]


async def test_I1_a_store_from_a_backup_gets_its_markers_back(objects: ObjectStore) -> None:
    store = BatchStore(objects)
    for name in ("open", "ended", "retried", "uncommitted"):
        await store.write_manifest("lab", name, slides(3))
        if name != "uncommitted":
            await store.create_batch(batch(name))
    await store.finalize("lab", "ended", final())
    await store.finalize("lab", "retried", final())
    await store.create_round("lab", "retried", RoundRecord(1, "r", (0,), 1.0))
    before = await unfinished(store)
    assert before == [("lab", "open"), ("lab", "retried")]
    for marker in [info.path async for info in objects.list("open")]:
        await objects.delete(marker)
    assert await unfinished(store) == []
    assert await store.open_rounds.restore() == 2
    assert await unfinished(store) == before
    assert await store.open_rounds.restore() == 2


async def test_batches_are_listed_newest_first_and_by_page(objects: ObjectStore) -> None:
    store = BatchStore(objects)
    times = {"b1": 3.0, "b2": 1.0, "b3": 2.0, "b4": 2.0, "b5": 9.0}
    for name, time in times.items():
        await store.create_batch(batch(name, create_time=time))
    await store.create_batch(batch("other", laboratory="lab2"))
    await store.write_manifest("lab", "uncommitted", slides(1))
    order = ["b5", "b1", "b3", "b4", "b2"]
    for reader in (store, BatchStore(objects)):
        assert [record.batch for record in await reader.list_batches("lab", limit=100)] == order
        seen: list[str] = []
        after = None
        while page := await reader.list_batches("lab", limit=2, after=after):
            seen += [record.batch for record in page]
            after = (page[-1].create_time, page[-1].batch)
        assert seen == order
    await store.create_batch(batch("uncommitted", create_time=10.0))
    assert [record.batch for record in await store.list_batches("lab", limit=1)] == ["uncommitted"]
    assert await store.list_batches("nobody", limit=10) == []


async def test_a_damaged_record_is_said_with_a_type(objects: ObjectStore) -> None:
    store = BatchStore(objects)
    await objects.put("batches/lab/b1/batch.json", b'{"half":')
    await objects.put("batches/lab/b1/results/0/000003.json", b"")
    await objects.put("batches/lab/b1/manifest/00000.jsonl", b"{}\n")
    for call in (store.get_batch("lab", "b1"), store.outcome("lab", "b1", 3), store.slide("lab", "b1", 0)):
        with pytest.raises(RecordCorrupt):
            await call
    with pytest.raises(RecordCorrupt):
        _ = [outcome async for outcome in store.outcomes("lab", "b1")]
    # One damaged batch must not hide the others from the reconciler.
    for name in ("lab/b1.0", "lab/stray", "lab/b1.x", "stray", "lab/deeper/b1.0"):
        await objects.put(f"open/{name}", b"\n")
    await accept(store, batch("b2"))
    assert await unfinished(store) == [("lab", "b1"), ("lab", "b2")]


def test_output_files_lie_under_their_round(objects: ObjectStore) -> None:
    store = BatchStore(objects)
    assert store.output_path("lab", "b1", 0, "manifest.json") == "batches/lab/b1/output/0/manifest.json"
    assert store.output_uri("lab", "b1", 0) == objects.uri("batches/lab/b1/output/0")
