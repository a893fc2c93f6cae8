"""How the system stands: counts over all batches, workers, and when what is open will be done."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import grpc.aio
import pytest

from gateway.names import BatchName
from gateway.progress import forecast
from gateway.rounds import Rounds
from gateway.system import SystemView
from gateway.views import BatchView, Views
from gramserve.access.principal import Principal, Role
from gramserve.cli.status_view import alarms
from gramserve.queue import Card, Roster, Seen
from gramserve.store import layout
from gramserve.store.batches import BatchStore
from gramserve.store.records import BatchRecord, BatchState, Counts, Priority
from gramserve.v1 import slide_batch_pb2 as b
from gramserve.v1.operations_pb2 import SystemStatus
from gramserve.v1.operations_service_pb2 import GetSystemStatusRequest
from gramserve.v1.operations_service_pb2_grpc import OperationsServiceStub
from tests.gateway.stack import Stack, slides

NOW = 1_000_000.0
SERVING = Card("0.1.0", 2, 2, 5, 1.5, ("models/gram/versions/1",), serving=True)
EVERYBODY = Principal("all", frozenset({Role.OPERATOR}), frozenset({"*"}))


async def look(stack: Stack, since: float | None = None) -> SystemStatus:
    stub: Any = OperationsServiceStub(stack.channel)
    request = GetSystemStatusRequest()
    if since is not None:
        request.accepted_since.FromMicroseconds(round(since * 1e6))
    status: SystemStatus = await stub.GetSystemStatus(request)
    return status


def view(
    batch: str, left: int, *, due: float | None = None, stat: bool = False, accepted: float = NOW - 100
) -> BatchView:
    """An open batch with slides left."""
    record = BatchRecord(
        laboratory="north",
        batch=batch,
        request_id="",
        fingerprint="",
        model="models/gram",
        model_version="models/gram/versions/1",
        model_digest="",
        slide_count=left + 10,
        priority=Priority.STAT if stat else Priority.ROUTINE,
        deliver_by=due,
        max_failed_ratio=0.0,
        annotations={},
        create_time=accepted,
    )
    counts = Counts(left + 10, queued=left, succeeded=10)
    return BatchView(BatchName("north", batch), record, 0, BatchState.RUNNING, counts, "", NOW)


def test_batches_end_one_after_the_other_in_the_order_of_the_queue() -> None:
    found = forecast(
        [
            view("no-due", 10),
            view("due-late", 20, due=NOW + 500),
            view("due-soon", 30, due=NOW + 100),
            view("stat", 2, due=NOW + 900, stat=True),
        ],
        NOW,
        per_second=2.0,
    )
    ends = [(one.record.batch, (one.estimated_end_time or 0) - NOW) for one in found.batches]
    assert ends == [("stat", 1.0), ("due-soon", 16.0), ("due-late", 26.0), ("no-due", 31.0)]
    assert (found.end_time, found.late) == (NOW + 31, 0)


def test_slides_that_will_not_be_done_in_time_are_counted() -> None:
    found = forecast([view("first", 50, due=NOW + 10), view("second", 10, due=NOW + 20)], NOW, per_second=2.0)
    assert found.late == 40  # 20 of the first 50 are done in time, and none of the second
    assert forecast([view("over", 7, due=NOW - 1)], NOW, per_second=2.0).late == 7
    assert forecast([view("free", 7)], NOW, per_second=0.001).late == 0


def test_while_nothing_runs_no_end_is_told_and_what_is_overdue_is_late() -> None:
    found = forecast([view("over", 7, due=NOW - 1), view("later", 9, due=NOW + 1)], NOW, per_second=0.0)
    assert (found.end_time, found.late, found.per_second) == (None, 7, 0.0)
    assert [one.estimated_end_time for one in found.batches] == [None, None]


async def test_open_and_ended_batches_are_in_one_sum(stack: Stack) -> None:
    ended = await stack.create(3)
    await stack.run(ended.name, failing={1}, review={2})
    waiting = await stack.create(4, priority=b.SlideBatch.PRIORITY_STAT)
    await stack.worker.lease(1)
    status = await look(stack)
    stats = status.completion_stats
    assert (stats.total_count, stats.succeeded_count, stats.failed_count, stats.review_count) == (7, 2, 1, 1)
    assert (stats.queued_count, stats.running_count) == (3, 1)
    assert [batch.name for batch in status.slide_batches] == [waiting.name, ended.name]
    assert status.slide_batch_count == 2
    assert (status.queue.stat_count, status.queue.routine_count, status.queue.leased_count) == (3, 0, 1)
    assert status.queue.oldest_stat_wait.ToTimedelta().total_seconds() > 0
    assert status.slide_batches[1].partial_failures[0].message == "the image is damaged"


async def test_a_damaged_record_of_one_batch_is_told_and_hides_no_other(stack: Stack) -> None:
    whole, damaged = await stack.create(3), await stack.create(2)
    await stack.worker.drain()
    for batch in (whole, damaged):
        await stack.ended(batch.name)
    _, laboratory, _, name = damaged.name.split("/")
    (final,) = [info.path async for info in stack.objects.list(f"batches/{laboratory}/{name}/final")]
    await stack.restart()
    await stack.objects.put(final, b"{")
    status = await look(stack)
    assert list(status.damaged_slide_batches) == [damaged.name]
    assert [one.name for one in status.slide_batches] == [whole.name]
    (alarm,) = [one for one in alarms(status) if "damaged" in one]
    assert damaged.name in alarm
    assert "restore" in alarm


@pytest.mark.parametrize("ended", [True, False])
async def test_a_batch_of_which_nothing_can_be_read_is_told_and_hides_no_other(stack: Stack, ended: bool) -> None:
    whole, damaged = await stack.create(3), await stack.create(2)
    if ended:
        await stack.worker.drain()
        for batch in (whole, damaged):
            await stack.ended(batch.name)
    _, laboratory, _, name = damaged.name.split("/")
    await stack.stop_gateway()
    await stack.objects.put(layout.batch_path(laboratory, name), b"{")
    roster = Roster(stack._redis_client, "slides")
    system = await SystemView(BatchStore(stack.objects), _views(stack), stack.queue, roster, time.time).look(EVERYBODY)
    assert [one.resource for one in system.damaged] == [damaged.name]
    assert [view.name.resource for view in [*system.open.batches, *system.ended]] == [whole.name]
    assert system.counts.total == 3


async def test_an_ended_batch_that_is_tried_again_is_open_and_then_counts_anew(stack: Stack) -> None:
    batch = await stack.create(2)
    await stack.run(batch.name, failing={0})
    assert (await look(stack)).completion_stats.failed_count == 1
    await stack.api.RetrySlideBatch(_retry(batch.name))
    assert (await look(stack)).completion_stats.queued_count == 1
    await stack.run(batch.name)
    stats = (await look(stack)).completion_stats
    assert (stats.succeeded_count, stats.failed_count, stats.queued_count) == (2, 0, 0)


async def test_a_batch_that_was_tried_again_between_two_looks_is_read_anew_after_a_minute(stack: Stack) -> None:
    batch = await stack.create(2)
    await stack.run(batch.name, failing={0})
    assert (await look(stack)).completion_stats.failed_count == 1
    await stack.api.RetrySlideBatch(_retry(batch.name))
    await stack.run(batch.name)
    stack.clock.ahead_s = 61
    assert (await look(stack)).completion_stats.failed_count == 0


def _retry(name: str) -> Any:
    from gramserve.v1.slide_batch_service_pb2 import RetrySlideBatchRequest

    return RetrySlideBatchRequest(name=name)


async def test_batches_of_earlier_nights_are_left_out_unless_they_are_open(stack: Stack) -> None:
    old = await stack.create(2)
    await stack.run(old.name)
    still_open = await stack.create(3)
    status = await look(stack, since=time.time() + 1)
    assert [batch.name for batch in status.slide_batches] == [still_open.name]
    assert status.completion_stats.total_count == 3


async def test_slides_that_end_give_a_rate_and_an_end(stack: Stack) -> None:
    batch = await stack.create(30)
    await Roster(stack._redis_client, "slides").announce("w-7", SERVING)
    for lease in await stack.worker.lease(20):
        await stack.worker.finish(lease)
    await stack.worker.lease(2)
    status = await look(stack)
    assert status.slides_per_second > 0
    assert status.estimated_end_time.ToMicroseconds() > status.time.ToMicroseconds()
    assert status.slide_batches[0].estimated_end_time == status.estimated_end_time
    assert status.slide_batches[0].name == batch.name


@pytest.mark.parametrize(
    ("card", "age_s", "ends"), [(SERVING, 9, True), (SERVING, 10, False), (replace(SERVING, serving=False), 0, False)]
)
async def test_there_is_no_rate_and_no_end_once_no_worker_takes_slides(
    stack: Stack, card: Card, age_s: float, ends: bool
) -> None:
    await stack.create(30)
    for lease in await stack.worker.lease(20):
        await stack.worker.finish(lease)
    await stack.worker.lease(2)  # it died with these
    system = SystemView(stack.batches, _views(stack), stack.queue, await _silent(stack, card, age_s), time.time)
    seen = await system.look(EVERYBODY)
    assert seen.counts.running == 2
    assert (seen.open.per_second > 0, seen.open.end_time is not None) == (ends, ends)


async def _silent(stack: Stack, card: Card, age_s: float) -> Roster:
    """The roster as it is when its only worker was silent for `age_s` more seconds."""

    class Later(Roster):
        async def workers(self) -> list[Seen]:
            return [replace(seen, age_s=seen.age_s + age_s) for seen in await super().workers()]

    roster = Later(stack._redis_client, "slides")
    await roster.announce("w-7", card)
    return roster


async def test_workers_are_listed_as_they_said(stack: Stack) -> None:
    roster = Roster(stack._redis_client, "slides")
    await roster.announce("w-7", SERVING)
    (worker,) = (await look(stack)).workers
    assert (worker.worker_id, worker.release, worker.ready_children, worker.leased_count) == ("w-7", "0.1.0", 2, 5)
    assert list(worker.model_versions) == ["models/gram/versions/1"]
    assert worker.longest_lease.ToTimedelta().total_seconds() == 1.5
    assert worker.serving


async def test_an_operator_sees_the_batches_of_its_laboratories_and_no_others(stack: Stack) -> None:
    await stack.create(2)
    theirs = await stack.create(5, parent="laboratories/south")
    ended = await stack.create(4, parent="laboratories/south", slides=slides(4))
    await stack.worker.drain()
    await stack.ended(ended.name)
    await stack.ended(theirs.name)
    await stack.create(1, parent="laboratories/south")
    roster = Roster(stack._redis_client, "slides")
    system = SystemView(stack.batches, _views(stack), stack.queue, roster, time.time)
    north = Principal("op", frozenset({Role.OPERATOR}), frozenset({"north"}))
    seen = await system.look(north)
    assert seen.counts.total == 2
    assert {view.name.laboratory for view in [*seen.open.batches, *seen.ended]} == {"north"}
    assert seen.others_open
    # What another principal saw before is not shown to this one.
    everything = await system.look(EVERYBODY)
    assert (everything.counts.total, everything.others_open) == (12, False)
    assert (await system.look(north)).counts.total == 2


def _views(stack: Stack) -> Views:
    """Of what stands in the store now: nothing is remembered."""
    batches = BatchStore(stack.objects)
    return Views(batches, Rounds(batches), stack.queue, time.time)


async def test_without_Redis_the_call_says_so(stack: Stack) -> None:
    await stack.redis.stop()
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await look(stack)
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "QUEUE_UNAVAILABLE" in str(raised.value.trailing_metadata())
