"""Who may change a leased slide."""

from __future__ import annotations

import dataclasses

import pytest

from gramserve.queue import Completion, Queue, RenewStatus, Settlement
from tests.queue.lane import Lane


async def test_I2_a_second_completion_is_refused_and_counted(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/b", 2)
    lease = await lane.lease_one()
    assert await queue.complete(lease, "w1", "SUCCEEDED", review=True) == Completion(True, 1)
    assert await queue.complete(lease, "w1", "FAILED") == Completion(False, 1)
    seen = await lane.snapshot("lab/b")
    assert (seen.succeeded, seen.failed, seen.review) == (1, 0, 1)
    assert (await queue.tallies())["refused"] == 1


async def test_I4_a_renewed_lease_is_not_stolen(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/b", 1)
    lease = await lane.lease_one()
    for _ in range(5):
        await lane.let_leases_run_out()
        assert await queue.renew("w1", [lease]) == [RenewStatus.OK], "overdue, but nobody has taken it back"
        assert (await queue.reclaim("sweeper")).requeued == 0
        assert await queue.lease("w2", 1, idle=True) == []
    assert (await queue.complete(lease, "w1", "SUCCEEDED")).accepted


async def test_I5_a_worker_past_its_lease_changes_nothing(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/b", 1)
    zombie = await lane.lease_one("w1")
    await lane.let_leases_run_out()
    assert (await queue.reclaim("sweeper")).requeued == 1
    before, events = await lane.snapshot("lab/b"), await lane.events("lab/b")
    assert await queue.renew("w1", [zombie]) == [RenewStatus.LOST]
    assert await queue.complete(zombie, "w1", "SUCCEEDED") == Completion(False, 1)
    assert not await queue.fail(zombie, "w1", crash=True, delay_s=0)
    assert await queue.release([zombie], "w1") == 0
    assert (await lane.snapshot("lab/b"), await lane.events("lab/b")) == (before, events)

    owner = await lane.lease_one("w1")
    assert await queue.renew("w1", [zombie, owner]) == [RenewStatus.LOST, RenewStatus.OK]
    assert not (await queue.complete(zombie, "w1", "FAILED")).accepted
    assert (await queue.complete(owner, "w1", "SUCCEEDED")).accepted
    assert (await queue.tallies())["refused"] == 6


async def test_I5_a_token_is_good_for_its_worker_only(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/b", 1)
    lease = await lane.lease_one("w1")
    assert not (await queue.complete(lease, "w2", "SUCCEEDED")).accepted
    assert await queue.renew("w2", [lease]) == [RenewStatus.LOST]
    forged = dataclasses.replace(lease, token="")
    assert not (await queue.complete(forged, "w1", "SUCCEEDED")).accepted
    assert (await queue.complete(lease, "w1", "SUCCEEDED")).accepted


async def test_completions_travel_together_and_are_judged_apart(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/b", 4)
    leases = await queue.lease("w1", 4, idle=True)
    await queue.release([leases[1]], "w1")
    answers = await queue.complete_many(
        "w1", [Settlement(lease, "FAILED" if lease.index == 3 else "SUCCEEDED") for lease in leases]
    )
    assert answers == [Completion(True, 3), Completion(False, 3), Completion(True, 2), Completion(True, 1)]
    assert await queue.complete_many("w1", []) == []


@pytest.mark.parametrize("state", ["CANCELLED", "RUNNING", "succeeded", "total"])
async def test_a_slide_that_ran_ends_as_succeeded_or_failed(lane: Lane, queue: Queue, state: str) -> None:
    await lane.fill("lab/b", 1)
    lease = await lane.lease_one()
    with pytest.raises(ValueError, match="SUCCEEDED"):
        await queue.complete(lease, "w1", state)


async def test_tokens_never_repeat(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/b", 50)
    tokens = set()
    for _ in range(4):
        leases = await queue.lease("w1", 50, idle=True)
        tokens |= {lease.token for lease in leases}
        await queue.release(leases, "w1")
    await lane.redis.delete(lane.key("counter"))
    tokens |= {lease.token for lease in await queue.lease("w1", 50, idle=True)}
    assert len(tokens) == 250
