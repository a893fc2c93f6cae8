"""A cancel in every state that a slide or its batch can be in."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from gramserve.errors import PreconditionFailed, Reason
from tests.faults.harness import STATE, Site, key_of
from tests.faults.matrix import Fault
from tests.faults.test_kills import WHEN, outcomes
from tests.waiting import until

whole = pytest.mark.whole


@whole
async def test_cancel_while_all_slides_wait(site: Site, fault: Fault) -> None:
    fault("cancel: all slides wait", invariants="I1 I8")
    await site.gateway()
    name = await site.create(site.pictures("ok", "ok", "ok"))
    await site.usual.cancel_batch(name)
    fault.inject()
    found = await fault.proved(site)
    assert found.ended == {"CANCELLED": 3}


@whole
async def test_cancel_while_a_slide_waits_for_its_retry(site: Site, fault: Fault) -> None:
    fault("cancel: a slide waits for its next attempt", invariants="I1 I8")
    await site.gateway()
    await site.worker(retry_delay_s=600)
    image = site.picture("raise")
    name = await site.create([image])
    await until(lambda: _delayed(site), what="the slide is delayed")
    await site.usual.cancel_batch(name)
    fault.inject()
    found = await fault.proved(site)
    assert found.ended == {"CANCELLED": 1}
    assert len(site.runs(image)) == 1


async def test_cancel_while_slides_run_and_wait_in_a_worker(site: Site, fault: Fault) -> None:
    fault("cancel: slides run, wait in a worker and wait in the queue", invariants="I1 I2 I8")
    await site.gateway()
    await site.worker()
    held = site.picture("hold")
    others = site.pictures(*["ok"] * 20)
    name = await site.create([held, *others])
    await site.held(held)
    cancelling = await site.usual.cancel_batch(name)
    fault.inject()
    assert cancelling.state == STATE.STATE_CANCELLING
    await until(lambda: _running_is(site, name, 1), what="what waited in the worker was given back")
    site.let_go(held)
    found = await fault.proved(site)
    assert found.ended["SUCCEEDED"] == 1 + sum(bool(site.runs(image)) for image in others)
    assert found.ended["SUCCEEDED"] + found.ended["CANCELLED"] == 21
    assert (await site.get(name)).state == STATE.STATE_CANCELLED


@whole
@pytest.mark.parametrize("point", ["worker.recorded", "worker.completed", "worker.recording"])
async def test_cancel_between_a_result_and_its_completion(site: Site, fault: Fault, point: str) -> None:
    fault(f"cancel: {WHEN[point]}", invariants="I1 I2")
    await site.gateway()
    await site.worker()
    site.points.at(point, "wait")
    name = await site.create(site.pictures("ok"))
    await site.points.reached(point)
    if point == "worker.completed":
        await until(lambda: _running_is(site, name, 0), what="the slide is completed")
        await site.ended(name)
        with pytest.raises(PreconditionFailed) as refused:
            await site.usual.cancel_batch(name)
        assert refused.value.reason is Reason.BATCH_TERMINAL
    else:
        await site.usual.cancel_batch(name)
    fault.inject()
    site.points.go(point)
    found = await fault.proved(site)
    # What has begun finishes and keeps its result.
    assert found.ended == {"SUCCEEDED": 1}


@whole
@pytest.mark.parametrize("point", ["gateway.output", "gateway.finalizing", "gateway.finalized", "gateway.told"])
async def test_cancel_while_a_batch_is_being_finalized(site: Site, fault: Fault, point: str) -> None:
    fault(f"cancel: {WHEN[point]}", invariants="I1 I2")
    await site.gateway()
    await site.worker()
    site.points.at(point, "wait")
    name = await site.create(site.pictures("ok", "ok"))
    await site.points.reached(point)
    refusal = await _refused(site.usual.cancel_batch(name))
    if point in {"gateway.finalized", "gateway.told"}:
        assert refusal is Reason.BATCH_TERMINAL
    else:
        assert refusal is None
    fault.inject()
    site.points.go(point)
    found = await fault.proved(site)
    assert found.ended == {"SUCCEEDED": 2}


@whole
async def test_cancel_of_a_batch_whose_gateway_died_before_it_was_queued(site: Site, fault: Fault) -> None:
    fault("cancel: the batch is committed and no gateway has queued it", invariants="I1 I3")
    gateway = await site.gateway()
    site.points.at("gateway.committed", "kill")
    creating = asyncio.create_task(site.create(site.pictures("ok", "ok"), batch_id="night-1"))
    await gateway.ended()
    fault.inject()
    await site.gateway(reconcile_interval_s=3600)  # only the cancel itself may bring it in order
    await asyncio.gather(creating, site.usual.cancel_batch("night-1"))
    await site.worker()
    found = await fault.proved(site)
    assert found.ended == {"CANCELLED": 2}


@whole
async def test_a_cancel_whose_gateway_dies_after_the_wish_is_durable_is_carried_out(site: Site, fault: Fault) -> None:
    fault("cancel: its gateway dies (kill -9) when the wish is durable", invariants="I1")
    gateway = await site.gateway()
    name = await site.create(site.pictures("ok", "ok"))
    site.points.at("gateway.stopped", "kill")
    cancelling = asyncio.create_task(site.usual.cancel_batch(name))
    await gateway.ended()
    fault.inject()
    await site.gateway()
    fault.handed_over()
    # The reconciler may have been faster than the repeated call.
    assert await _refused(cancelling) in {None, Reason.BATCH_TERMINAL}
    await site.worker()
    found = await fault.proved(site)
    assert found.ended == {"CANCELLED": 2}


@whole
async def test_cancel_of_a_retry_leaves_the_first_round_as_it_was(site: Site, fault: Fault) -> None:
    fault("cancel: a retry of failed slides runs", invariants="I1 I2")
    await site.gateway()
    await site.worker(max_attempts=1)
    held = site.picture("raise")
    name = await site.create([held, *site.pictures("ok", "ok")])
    await site.ended(name)
    site.points.at("child.begun", "wait")
    await site.usual.retry_batch(name)
    await site.points.reached("child.begun")
    await site.usual.cancel_batch(name)
    fault.inject()
    site.points.off("child.begun")
    await until(lambda: _final(site, name, 1), what="round 1 has ended")
    found = await fault.proved(site)
    assert found.ended == {"SUCCEEDED": 2, "FAILED": 1}
    assert (await outcomes(site, name))[0].round == 1


async def _refused(call: Awaitable[object]) -> Reason | None:
    try:
        await call
    except PreconditionFailed as error:
        return error.reason
    return None


async def _delayed(site: Site) -> bool:
    return (await site.queue.depth()).delayed == 1


async def _running_is(site: Site, name: str, count: int) -> bool:
    snapshot = await site.queue.snapshot("/".join(key_of(name)))
    return snapshot is not None and snapshot.running == count


async def _final(site: Site, name: str, number: int) -> bool:
    return await site.batches.final(*key_of(name), number) is not None
