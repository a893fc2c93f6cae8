"""Following a batch."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from gramserve.errors import Reason
from gramserve.store.records import OutcomeRecord, SlideState
from gramserve.v1 import slide_batch_pb2 as b
from gramserve.v1 import slide_batch_service_pb2 as s
from gramserve.v1 import slide_pb2
from gramserve.v1.slide_batch_service_pb2_grpc import SlideBatchServiceStub
from tests.gateway.stack import CALL, STATE, Stack, refused
from tests.waiting import HANGS_S, until

SLIDE = slide_pb2.Slide.State
Response = s.WatchSlideBatchResponse


def open_watch(stack: Stack, name: str, after: int = 0) -> Any:
    return stack.api.WatchSlideBatch(s.WatchSlideBatchRequest(name=name, after_sequence=after))


async def rest_of(stream: Any) -> list[Response]:
    found: list[Response] = []
    while (response := await stream.read()) is not grpc.aio.EOF:
        found.append(response)
    return found


def told(responses: list[Response]) -> list[tuple[int, int, str]]:
    """(sequence, index or -1, state) of each response."""
    return [
        (r.sequence, r.slide.index, SLIDE.Name(r.slide.state))
        if r.HasField("slide")
        else (r.sequence, -1, STATE.Name(r.slide_batch.state))
        for r in responses
    ]


async def test_a_watch_tells_every_change_in_order_and_ends_with_the_batch(stack: Stack) -> None:
    batch = await stack.create(2)
    await stack.run(batch.name, failing=(1,))
    responses = await stack.watch(batch.name)

    changes = told(responses)
    assert [sequence for sequence, _, _ in changes] == list(range(1, len(changes) + 1))
    assert {(index, state) for _, index, state in changes} == {
        (-1, "STATE_QUEUED"),
        (-1, "STATE_RUNNING"),
        (0, "STATE_RUNNING"),
        (1, "STATE_RUNNING"),
        (0, "STATE_SUCCEEDED"),
        (1, "STATE_FAILED"),
        (-1, "STATE_PARTIALLY_SUCCEEDED"),
    }
    assert changes[-1][1:] == (-1, "STATE_PARTIALLY_SUCCEEDED")
    assert responses[-1].slide_batch.completion_stats.failed_count == 1
    assert responses[-1].slide_batch.output_info.manifest_digest
    succeeded = next(r.slide for r in responses if r.slide.state == SLIDE.STATE_SUCCEEDED)
    assert succeeded.slide_id == "S-00000"
    assert succeeded.call.findings[0].label == "GNR"
    assert next(r.slide for r in responses if r.slide.state == SLIDE.STATE_FAILED).error.message


async def test_a_watch_goes_on_live_after_what_was_before_it(stack: Stack) -> None:
    batch = await stack.create(3)
    stream = open_watch(stack, batch.name)
    assert (await stream.read()).slide_batch.state == STATE.STATE_QUEUED
    await stack.worker.drain()
    responses = await rest_of(stream)
    assert [r.sequence for r in responses] == list(range(2, 2 + len(responses)))
    assert sum(r.slide.state == SLIDE.STATE_SUCCEEDED for r in responses) == 3


@pytest.mark.parametrize("after", range(0, 10, 3))
async def test_a_watch_resumes_after_any_event_without_gap_or_repeat(stack: Stack, after: int) -> None:
    batch = await stack.create(4)
    await stack.run(batch.name)
    everything = told(await stack.watch(batch.name))
    assert told(await stack.watch(batch.name, after)) == everything[after:]


async def test_a_watch_that_saw_the_end_has_nothing_more_to_tell(stack: Stack) -> None:
    batch = await stack.create(1)
    await stack.run(batch.name)
    last = (await stack.watch(batch.name))[-1].sequence
    assert await stack.watch(batch.name, last) == []
    await stack.flush()
    assert await stack.watch(batch.name, last) == []


async def test_a_watch_resumes_at_a_restarted_gateway_without_gap_or_repeat(stack: Stack) -> None:
    batch = await stack.create(40)
    stream = open_watch(stack, batch.name)
    await stack.worker.drain(at_a_time=4)
    seen = [await stream.read() for _ in range(17)]
    stream.cancel()
    await stack.restart()
    rest = await stack.watch(batch.name, seen[-1].sequence)
    sequences = [response.sequence for response in [*seen, *rest]]
    assert sequences == list(range(1, 40 * 2 + 4))
    done = [r.slide.index for r in [*seen, *rest] if r.slide.state == SLIDE.STATE_SUCCEEDED]
    assert sorted(done) == list(range(40))


async def test_I14_a_gateway_that_stops_sends_its_watchers_elsewhere(stack: Stack) -> None:
    batch = await stack.create(1)
    stream = open_watch(stack, batch.name)
    await stream.read()
    stopping = asyncio.create_task(stack.app.stop())  # type: ignore[union-attr]
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stream.read()
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    await stopping


async def test_a_silent_watch_sends_heartbeats_with_the_last_sequence(stack: Stack) -> None:
    await stack.restart(heartbeat_s=0.05)
    batch = await stack.create(2)
    stream = open_watch(stack, batch.name)
    first = await stream.read()
    beats = [await stream.read() for _ in range(3)]
    assert {beat.sequence for beat in beats} == {first.sequence}
    assert all(beat.slide_batch.completion_stats.queued_count == 2 for beat in beats)
    stream.cancel()


async def test_an_ended_batch_that_redis_forgot_is_told_from_the_store(stack: Stack) -> None:
    batch = await stack.create(5)
    await stack.run(batch.name, failing=(3,))
    await stack.flush()
    changes = told(await stack.watch(batch.name))
    states = ["STATE_SUCCEEDED"] * 5
    states[3] = "STATE_FAILED"
    assert [(index, state) for _, index, state in changes] == [
        *enumerate(states),
        (-1, "STATE_PARTIALLY_SUCCEEDED"),
    ]
    sequences = [sequence for sequence, _, _ in changes]
    assert sequences == sorted(set(sequences))
    for position, sequence in enumerate(sequences):
        assert told(await stack.watch(batch.name, sequence)) == changes[position + 1 :]


async def test_I1_a_watcher_learns_of_every_end_although_redis_lost_everything(stack: Stack) -> None:
    batch = await stack.create(30)
    stream = open_watch(stack, batch.name)
    seen: list[Response] = []

    async def follow() -> None:
        while (response := await stream.read()) is not grpc.aio.EOF:
            seen.append(response)

    following = asyncio.create_task(follow())
    for lease in await stack.worker.lease(12):
        await stack.worker.finish(lease)
    await until(lambda: sum(r.slide.state == SLIDE.STATE_SUCCEEDED for r in seen) == 12)
    await stack.flush()
    async with stack.worker.working():
        await asyncio.wait_for(following, HANGS_S)

    sequences = [r.sequence for r in seen]
    assert sequences == sorted(set(sequences))
    assert {r.slide.index for r in seen if r.slide.state == SLIDE.STATE_SUCCEEDED} == set(range(30))
    assert seen[-1].slide_batch.state == STATE.STATE_SUCCEEDED
    # A reader who comes only now misses nothing either; what ended after the loss may be told twice.
    late = await stack.watch(batch.name)
    assert {r.slide.index for r in late if r.slide.state == SLIDE.STATE_SUCCEEDED} == set(range(30))
    assert [r.sequence for r in late] == sorted({r.sequence for r in late})


async def test_a_watch_over_a_retry_ends_with_the_last_round(stack: Stack) -> None:
    batch = await stack.create(3)
    await stack.run(batch.name, failing=(0, 2))
    seen = await stack.watch(batch.name)
    await stack.api.RetrySlideBatch(s.RetrySlideBatchRequest(name=batch.name))
    await stack.run(batch.name)
    rest = await stack.watch(batch.name, seen[-1].sequence)
    assert told(rest)[0][1:] == (-1, "STATE_QUEUED")
    assert told(rest)[-1][1:] == (-1, "STATE_SUCCEEDED")
    assert told(await stack.watch(batch.name)) == told(seen) + told(rest)


async def test_a_slow_reader_holds_up_nobody_and_fills_no_memory(stack: Stack) -> None:
    count = 300
    batch = await stack.create(count)
    evidence = [{**CALL["findings"][0]["evidence"][0], "x": x} for x in range(100)]  # type: ignore[index]
    call = {**CALL, "findings": [{**CALL["findings"][0], "evidence": evidence}]}  # type: ignore[index]
    while leases := await stack.worker.lease(64):

        async def finish(lease: Any) -> None:
            record = OutcomeRecord(lease.index, 0, SlideState.SUCCEEDED, call=call, time=1.0)
            await stack.batches.record_outcome("north", lease.batch.partition("/")[2], record)
            await stack.queue.complete(lease, stack.worker.name, "SUCCEEDED")

        await asyncio.gather(*map(finish, leases))
    await stack.ended(batch.name)

    # A reader with a small window: what is under way to it is little, so what is kept for it would show.
    window = [("grpc.http2.lookahead_bytes", 65_536), ("grpc.http2.bdp_probe", 0)]
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{stack.app.port}", options=window)  # type: ignore[union-attr]
    slow: Any = SlideBatchServiceStub(channel).WatchSlideBatch(s.WatchSlideBatchRequest(name=batch.name))
    await slow.read()
    reads = await pages_read(stack)
    quiet = 0
    while quiet < 20:  # other callers are served meanwhile, and the slow one is not read ahead for
        await stack.get(batch.name)
        now = await pages_read(stack)
        quiet, reads = (quiet + 1, now) if now == reads else (0, now)
    assert reads <= 3
    assert len(await rest_of(slow)) > 2 * count - 1
    await channel.close()


async def pages_read(stack: Stack) -> int:
    facts = await stack.command("INFO", "commandstats")
    return int(facts["cmdstat_xrange"]["calls"])


@pytest.mark.parametrize(("size", "most"), [(0, 1), (1, 1), (3, 3), (100, 100), (5000, 100)])
async def test_pages_tell_the_same_as_single_events_and_are_as_large_as_asked(
    stack: Stack, size: int, most: int
) -> None:
    batch = await stack.create(70)
    await stack.run(batch.name, failing=(3,))
    singly = await stack.watch(batch.name)
    request = s.WatchSlideBatchRequest(name=batch.name, page_size=size)
    pages = [[page, *page.further] async for page in stack.api.WatchSlideBatch(request)]
    assert max(len(page) for page in pages) == most
    events = [event for page in pages for event in page]
    for event in events:
        event.ClearField("further")
    assert events == singly


async def test_a_negative_sequence_is_refused(stack: Stack) -> None:
    batch: b.SlideBatch = await stack.create(1)
    code, error = await refused(stack.watch(batch.name, -1))
    assert (code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, Reason.INVALID_FIELD)
