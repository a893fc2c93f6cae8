"""Opening batches and submitting slides."""

from __future__ import annotations

import time

import pytest

from gramserve.errors import Unavailable
from gramserve.queue import Done, Queue
from tests.queue.lane import DIGEST, VERSION, Lane


async def test_counts_add_up_from_the_moment_a_batch_is_opened(lane: Lane, queue: Queue) -> None:
    await lane.open("lab/b", 10, done=Done(succeeded=3, failed=2, review=1))
    seen = await lane.snapshot("lab/b")
    assert (seen.total, seen.queued, seen.succeeded, seen.failed, seen.review) == (10, 5, 3, 2, 1)
    assert not seen.submitted
    await queue.submit("lab/b", [0, 2, 4, 6, 8])
    seen = await lane.snapshot("lab/b")
    assert (seen.queued, seen.live, seen.submitted) == (5, 5, True)
    assert (seen.version, seen.digest) == (VERSION, DIGEST)
    await lane.check(["lab/b"])


async def test_a_batch_is_opened_once_a_round(lane: Lane) -> None:
    assert await lane.open("lab/b", 3)
    assert not await lane.open("lab/b", 3)
    assert not await lane.open("lab/b", 99)
    assert (await lane.snapshot("lab/b")).total == 3


async def test_I2_submitting_again_queues_nothing_twice(lane: Lane, queue: Queue) -> None:
    await lane.open("lab/b", 2500)
    assert await queue.submit("lab/b", range(1200), more=True) == 1200
    assert await queue.submit("lab/b", range(2500)) == 1300
    assert await queue.submit("lab/b", range(2500)) == 0
    for _ in range(2):
        lease = await lane.lease_one()
        await queue.complete(lease, "w1", "SUCCEEDED")
    assert await queue.submit("lab/b", range(2500)) == 0
    await lane.check(["lab/b"])


async def test_I2_a_gateway_that_comes_late_to_a_rebuilt_batch_queues_no_slide_that_has_ended(
    lane: Lane, queue: Queue
) -> None:
    """It was submitting when Redis was lost; meanwhile another one rebuilt the batch from the store."""
    await lane.open("lab/ended", 3, fresh=False, done=Done(succeeded=2, failed=1))
    assert await queue.submit("lab/ended", range(2), more=True) == 0
    await lane.open("lab/half", 3, fresh=False, done=Done(succeeded=2))
    assert await queue.submit("lab/half", [0]) == 1
    assert await queue.submit("lab/half", range(3)) == 0
    await lane.check(["lab/ended", "lab/half"])


async def test_two_gateways_that_submit_at_once_queue_each_slide_once(lane: Lane, queue: Queue) -> None:
    await lane.open("lab/b", 3000)
    other = Queue(lane.redis, lane.name)
    everything = list(range(3000))
    queued = 0
    for start in range(0, 3000, 500):
        queued += await queue.submit("lab/b", everything[: start + 500], more=True)
        queued += await other.submit("lab/b", everything)
    await other.aclose()
    assert queued == 3000
    await lane.check(["lab/b"])


async def test_submitting_to_a_batch_that_the_queue_lost_is_unavailable(queue: Queue) -> None:
    with pytest.raises(Unavailable):
        await queue.submit("lab/gone", [0])


@pytest.mark.parametrize("indices", [[1, 0], [0, 0], [-1], [2, 3]])
async def test_wrong_indices_are_refused(lane: Lane, queue: Queue, indices: list[int]) -> None:
    await lane.open("lab/b", 3)
    with pytest.raises(ValueError, match="ind"):
        await queue.submit("lab/b", indices)
    assert (await lane.snapshot("lab/b")).live == 0


async def test_a_batch_key_with_spaces_and_a_batch_without_slides_are_refused(lane: Lane) -> None:
    with pytest.raises(ValueError, match="spaces"):
        await lane.open("lab/a b", 3)
    with pytest.raises(ValueError, match="slides"):
        await lane.open("lab/b", 0)


async def test_a_retry_is_a_new_round_of_the_same_batch(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/b", 3)
    leases = await queue.lease("w1", 3, idle=True)
    for lease, state in zip(leases, ("SUCCEEDED", "FAILED", "FAILED"), strict=True):
        await queue.complete(lease, "w1", state)
    await queue.finish("lab/b", "PARTIALLY_SUCCEEDED")
    before = (await lane.snapshot("lab/b")).last_sequence

    assert await lane.open("lab/b", 3, round=1, done=Done(succeeded=1), fresh=False)
    assert await queue.submit("lab/b", [1, 2]) == 2
    seen = await lane.snapshot("lab/b")
    assert (seen.round, seen.queued, seen.succeeded, seen.failed, seen.finished) == (1, 2, 1, 0, "")
    assert seen.first_start_s is None
    leases = await queue.lease("w1", 3, idle=True)
    assert [(lease.round, lease.index, lease.attempts) for lease in leases] == [(1, 1, 0), (1, 2, 0)]
    assert [event.sequence for event in await queue.events("lab/b", before)] == list(range(before + 1, before + 5))
    assert await lane.redis.ttl(lane.key("events:lab/b")) == -1, "a retried batch is kept again"
    await lane.check(["lab/b"])


async def test_no_round_opens_while_slides_of_the_earlier_one_live(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/b", 1)
    lease = await lane.lease_one()
    assert not await lane.open("lab/b", 1, round=1)
    await queue.complete(lease, "w1", "FAILED")
    assert await lane.open("lab/b", 1, round=1)
    assert not await lane.open("lab/b", 1, round=0)


async def test_I1_a_flushed_queue_is_rebuilt_and_old_tokens_are_refused(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/b", 5)
    done, running, *_ = await queue.lease("w1", 2, idle=True)
    await queue.complete(done, "w1", "SUCCEEDED")
    last = (await lane.snapshot("lab/b")).last_sequence
    await lane.redis.flushall()
    assert await queue.snapshot("lab/b") is None
    assert not (await queue.complete(running, "w1", "SUCCEEDED")).accepted

    assert await lane.open("lab/b", 5, done=Done(succeeded=1), fresh=False)
    assert await queue.submit("lab/b", [1, 2, 3, 4]) == 4
    assert not (await queue.complete(running, "w1", "SUCCEEDED")).accepted
    again = await queue.lease("w1", 5, idle=True)
    assert [lease.index for lease in again] == [1, 2, 3, 4]
    assert not (await queue.complete(running, "w1", "SUCCEEDED")).accepted, "the same slide and worker, an old token"
    for lease in again:
        assert (await queue.complete(lease, "w1", "SUCCEEDED")).accepted
    seen = await lane.snapshot("lab/b")
    assert (seen.succeeded, seen.live) == (5, 0)
    sequences = [event.sequence for event in await queue.events("lab/b", last)]
    assert len(sequences) == 1 + 1 + 4 + 4
    assert sequences == sorted(set(sequences))
    assert sequences[0] > last
    assert sequences[0] > (time.time() - 3600) * 1e6


async def test_queued_time_runs_from_acceptance(lane: Lane) -> None:
    await lane.fill("lab/b", 1, accepted_s=time.time() - 100)
    assert 99 < (await lane.lease_one()).queued_s < 200


async def test_done_rate_is_of_this_round(lane: Lane, queue: Queue) -> None:
    await lane.open("lab/b", 30, done=Done(succeeded=20))
    await queue.submit("lab/b", range(20, 30))
    assert (await lane.snapshot("lab/b")).done_rate == 0
    lease = await lane.lease_one()
    await lane.redis.hincrby(lane.key("batch:lab/b"), "first_ms", -2000)
    await queue.complete(lease, "w1", "SUCCEEDED")
    assert 0.1 < (await lane.snapshot("lab/b")).done_rate <= 0.5
