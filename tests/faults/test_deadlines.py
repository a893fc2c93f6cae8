"""A deadline that passes in every state that a slide or its batch can be in (I12)."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gramserve.queue import EmbeddedRedis
from tests.faults import harness
from tests.faults.harness import STATE, Site, key_of
from tests.faults.matrix import Fault
from tests.faults.test_kills import WHEN, outcomes
from tests.waiting import until

whole = pytest.mark.whole
SOON_S = 6.0


def soon() -> datetime:
    """A deadline that a worker which is up meets, and one that is held does not."""
    return datetime.now(UTC) + timedelta(seconds=SOON_S)


async def worked(site: Site) -> None:
    """A worker that has its model and has run a slide: the next one begins at once."""
    await site.worker()
    await site.ended(await site.create(site.pictures("ok")))


async def passed(site: Site, deadline: datetime) -> None:
    """Until it is over, by the clock of Redis."""

    async def look() -> bool:
        return (await site.queue.server()).time_s > deadline.timestamp()

    await until(look)


@whole
async def test_I12_slides_that_wait_when_the_deadline_passes_never_run(site: Site, fault: Fault) -> None:
    fault("deadline passes: all slides wait", invariants="I12")
    await site.gateway()
    images = site.pictures("ok", "ok", "ok")
    deadline = soon()
    name = await site.create(images, deliver_by=deadline)
    await passed(site, deadline)
    fault.inject()
    await site.worker()
    found = await fault.proved(site)
    assert found.ended == {"EXPIRED": 3}
    assert not any(site.runs(image) for image in images)
    assert (await site.get(name)).state == STATE.STATE_EXPIRED


@whole
async def test_I12_a_slide_that_waits_for_its_retry_when_the_deadline_passes_is_not_tried_again(
    site: Site, fault: Fault
) -> None:
    fault("deadline passes: a slide waits for its next attempt", invariants="I12")
    await site.gateway()
    await site.worker(retry_delay_s=600)
    image, deadline = site.picture("raise", times=1), soon()
    await site.create([image], deliver_by=deadline)
    await until(lambda: _delayed(site), what="the slide is delayed")
    await passed(site, deadline)
    fault.inject()
    found = await fault.proved(site)
    assert found.ended == {"EXPIRED": 1}
    assert len(site.runs(image)) == 1


async def test_I12_what_runs_when_the_deadline_passes_is_delivered_and_what_waits_behind_it_never_begins(
    site: Site, fault: Fault
) -> None:
    fault("deadline passes: slides run, wait in a worker and wait in the queue", invariants="I12")
    await site.gateway()
    await worked(site)
    held, others, deadline = site.picture("hold"), site.pictures(*["ok"] * 5), soon()
    running = await site.create([held], deliver_by=deadline)
    await site.held(held)  # of slides that are leased together any may be the first
    name = await site.create(others, deliver_by=deadline)
    await passed(site, deadline)
    fault.inject()
    await until(lambda: _expired_is(site, name, 5), what="all that waited expired")
    site.let_go(held)
    found = await fault.proved(site)
    assert found.ended == {"SUCCEEDED": 2, "EXPIRED": 5}
    assert not any(site.runs(image) for image in others)
    assert (await outcomes(site, running))[0].call is not None
    assert (await site.get(running)).state == STATE.STATE_SUCCEEDED
    assert (await site.get(name)).state == STATE.STATE_EXPIRED


async def test_I12_a_slide_in_the_hands_of_a_child_does_not_begin_after_the_deadline_though_its_worker_knows_nothing(
    session_redis: EmbeddedRedis, tmp_path: Path, fault: Fault
) -> None:
    """No renewal tells the worker that the batch has expired before its child is free for the next slide."""
    fault("deadline passes: a slide waits in a child and the worker hears nothing", invariants="I12")
    async with harness.site(tmp_path, session_redis, lease_s=600.0) as site:
        await site.redis_client.flushall()
        await site.gateway()
        await worked(site)
        held, behind, deadline = site.picture("hold"), site.picture("ok"), soon()
        await site.create([held])
        await site.held(held)
        await site.create([behind], deliver_by=deadline)
        await until(lambda: _leased(site, 2), what="the worker has both")
        site.points.at("worker.renewing", "wait", nth=0)
        await passed(site, deadline)
        fault.inject()
        site.points.at("child.middle", "note", nth=0)
        site.let_go(held)
        # The child is free now and takes what lies in its socket.
        await site.held(behind)
        site.points.off("worker.renewing")
        found = await fault.proved(site)
        assert found.ended == {"SUCCEEDED": 2, "EXPIRED": 1}
        assert site.points.passed("child.middle") == 0


@whole
@pytest.mark.parametrize("point", ["worker.recording", "worker.recorded"])
async def test_I12_a_result_that_is_not_completed_when_the_deadline_passes_counts(
    site: Site, fault: Fault, point: str
) -> None:
    fault(f"deadline passes: {WHEN[point]}", invariants="I12")
    await site.gateway()
    await site.worker()
    site.points.at(point, "wait")
    deadline = soon()
    await site.create(site.pictures("ok"), deliver_by=deadline)
    await site.points.reached(point)
    await passed(site, deadline)
    fault.inject()
    site.points.go(point)
    found = await fault.proved(site)
    assert found.ended == {"SUCCEEDED": 1}


@whole
async def test_I12_a_worker_that_dies_with_a_slide_after_its_deadline_leaves_it_expired(
    site: Site, fault: Fault
) -> None:
    fault("deadline passes: its worker dies (kill -9) then", invariants="I6 I12")
    await site.gateway()
    worker = await site.worker()
    held, deadline = site.picture("hold"), soon()
    await site.create([held], deliver_by=deadline)
    await site.held(held)
    await passed(site, deadline)
    await worker.kill()
    fault.inject()
    await site.worker()
    found = await fault.proved(site)
    assert found.ended == {"EXPIRED": 1}
    assert len(site.runs(held)) == 1


@whole
async def test_I12_a_batch_that_was_committed_and_not_queued_before_its_deadline_expires(
    site: Site, fault: Fault
) -> None:
    fault("deadline passes: no gateway has queued the batch", invariants="I1 I12")
    gateway = await site.gateway()
    site.points.at("gateway.committed", "kill")
    images, deadline = site.pictures("ok", "ok"), soon()
    creating = asyncio.create_task(site.create(images, deliver_by=deadline))
    await gateway.ended()
    fault.inject()
    await passed(site, deadline)
    await site.gateway()
    await site.worker()
    await creating  # a repeat is answered from what was accepted, also when its deadline has passed
    found = await fault.proved(site)
    assert found.ended == {"EXPIRED": 2}
    assert not any(site.runs(image) for image in images)


@whole
async def test_I12_a_deadline_that_passes_while_a_batch_is_finalized_changes_nothing(site: Site, fault: Fault) -> None:
    fault("deadline passes: between the files of the output", invariants="I1 I12")
    await site.gateway()
    await site.worker()
    site.points.at("gateway.output", "wait", nth=2)
    deadline = soon()
    name = await site.create(site.pictures("ok", "ok"), deliver_by=deadline)
    await site.points.reached("gateway.output", times=2)
    await passed(site, deadline)
    fault.inject()
    site.points.off("gateway.output")
    found = await fault.proved(site)
    assert found.ended == {"SUCCEEDED": 2}
    assert (await site.get(name)).state == STATE.STATE_SUCCEEDED


async def _leased(site: Site, count: int) -> bool:
    return (await site.queue.depth()).leased == count


async def _delayed(site: Site) -> bool:
    return (await site.queue.depth()).delayed == 1


async def _expired_is(site: Site, name: str, count: int) -> bool:
    snapshot = await site.queue.snapshot("/".join(key_of(name)))
    return snapshot is not None and snapshot.expired == count
