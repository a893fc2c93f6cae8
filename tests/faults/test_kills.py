"""kill -9 and SIGTERM of every process at every point where it could matter."""

from __future__ import annotations

import asyncio

import pytest

from gramserve.store.records import OutcomeRecord
from tests.faults.harness import Service, Site, key_of
from tests.faults.matrix import Fault
from tests.waiting import HANGS_S

WHEN = {
    "worker.leased": "before a slide starts",
    "child.begun": "a slide has begun",
    "child.middle": "in the middle of a slide",
    "child.read": "a slide was read and its child has not answered",
    "worker.recording": "before a result is written",
    "worker.recorded": "a result is durable and not completed",
    "worker.completed": "a slide is completed and the worker does not know",
    "gateway.requested": "the request is marked, nothing else is written",
    "gateway.manifest": "the manifest is written, the batch is not committed",
    "gateway.committed": "the batch is committed and not queued",
    "gateway.opened": "the batch is known to Redis, its slides are not",
    "gateway.queued": "the batch is queued and not answered",
    "gateway.output": "between the files of the output",
    "gateway.finalizing": "the output is written, the end is not",
    "gateway.finalized": "the end is written, Redis does not know",
    "gateway.told": "Redis knows the end, the gateway does not know that",
}
SHORT = {"worker.recorded", "gateway.committed"}


def at_points(*points: str, short: set[str] = SHORT) -> pytest.MarkDecorator:
    """A test for each of the points; in `make test` only for those of the short form."""
    return pytest.mark.parametrize(
        "point", [pytest.param(point, marks=[] if point in short else pytest.mark.whole) for point in points]
    )


async def first_to_end(*services: Service) -> tuple[Service, int]:
    """Whichever of the services ends, and its exit status; at least one must."""
    ends = {asyncio.create_task(service.ended()): service for service in services}
    done, rest = await asyncio.wait(ends, timeout=HANGS_S, return_when=asyncio.FIRST_COMPLETED)
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
    assert len(done) == 1, "one process should have ended"
    (task,) = done
    return ends[task], task.result()


async def outcomes(site: Site, name: str) -> dict[int, OutcomeRecord]:
    """The outcomes of a batch by index."""
    return {outcome.index: outcome async for outcome in site.batches.outcomes(*key_of(name))}


@at_points("worker.leased", "worker.recording", "worker.recorded", "worker.completed")
async def test_I1_I2_I6_another_worker_goes_on_after_kill_9(site: Site, fault: Fault, point: str) -> None:
    fault(f"worker, kill -9: {WHEN[point]}", invariants="I1 I2 I6")
    await site.gateway()
    workers = [await site.worker(), await site.worker()]
    images = site.pictures(*["ok"] * 8)
    site.points.at(point, "kill")
    name = await site.create(images)
    _, status = await first_to_end(*workers)
    assert status == -9
    fault.inject()
    # What is durable is never run again, whoever completes it.
    durable = await site.batches.recorded(*key_of(name), 0)
    runs = [len(site.runs(images[index])) for index in durable]
    await site.ended(name)
    fault.handed_over()
    found = await fault.proved(site)
    assert found.ended == {"SUCCEEDED": 8}
    assert [len(site.runs(images[index])) for index in durable] == runs
    if point == "worker.recorded":
        assert durable


@pytest.mark.whole
async def test_I1_I6_another_worker_goes_on_after_kill_9_in_the_middle_of_a_slide(site: Site, fault: Fault) -> None:
    fault(f"worker, kill -9: {WHEN['child.middle']}", invariants="I1 I2 I6")
    await site.gateway()
    worker = await site.worker()
    held, *others = site.picture("hold", times=1), *site.pictures("ok", "ok", "ok")
    name = await site.create([held, *others])
    await site.held(held)
    await site.worker()
    fault.inject()
    await worker.kill()
    await site.held(held, times=2)
    fault.handed_over()
    found = await fault.proved(site)
    assert found.ended == {"SUCCEEDED": 4}
    # The one that ran paid with a crash; what waited behind it can only have been charged for the same lease.
    assert (await outcomes(site, name))[0].attempts == 2


@at_points("worker.leased", "worker.recording", "worker.recorded", "worker.completed", short=set())
async def test_I14_SIGTERM_of_a_worker_loses_and_charges_nothing(site: Site, fault: Fault, point: str) -> None:
    fault(f"worker, SIGTERM: {WHEN[point]}", invariants="I6 I14")
    await site.gateway()
    workers = [await site.worker(), await site.worker()]
    site.points.at(point, "term")
    name = await site.create(site.pictures(*["ok"] * 8))
    _, status = await first_to_end(*workers)
    fault.inject()
    assert status == 0
    await site.ended(name)
    fault.handed_over()
    found = await fault.proved(site)
    assert found.ended == {"SUCCEEDED": 8}
    assert {outcome.attempts for outcome in (await outcomes(site, name)).values()} == {1}
    assert found.crashes == 0


@at_points("child.begun", "child.middle", "child.read")
async def test_I2_I7_a_child_killed_costs_its_slide_a_crash_and_nothing_else(
    site: Site, fault: Fault, point: str
) -> None:
    fault(f"child, kill -9: {WHEN[point]}", invariants="I2 I7")
    await site.gateway()
    await site.worker()
    images = site.pictures(*["ok"] * 6)
    site.points.at(point, "kill", nth=3)
    name = await site.create(images)
    child = await site.points.reached(point, times=3)
    fault.inject()
    found = await fault.proved(site)
    assert found.ended == {"SUCCEEDED": 6}
    charged = [index for index, outcome in (await outcomes(site, name)).items() if outcome.attempts == 2]
    assert len(charged) == 1
    if point != "child.begun":  # there it had not taken the picture yet
        assert site.runs(images[charged[0]])[0] == child
    assert sorted(len(site.runs(image)) for image in images) == [1, 1, 1, 1, 1, 1 if point == "child.begun" else 2]


@pytest.mark.whole
async def test_I14_SIGTERM_of_a_child_is_not_heard(site: Site, fault: Fault) -> None:
    fault(f"child, SIGTERM: {WHEN['child.middle']}", invariants="I14")
    await site.gateway()
    await site.worker()
    site.points.at("child.middle", "term", nth=1)
    name = await site.create(site.pictures("ok", "ok", "ok"))
    await site.points.reached("child.middle")
    fault.inject()
    found = await fault.proved(site)
    assert found.ended == {"SUCCEEDED": 3}
    assert {outcome.attempts for outcome in (await outcomes(site, name)).values()} == {1}


GATEWAY = [(point, 1) for point in WHEN if point.startswith("gateway.")]
GATEWAY += [("gateway.output", 2), ("gateway.output", 3)]
HARMS = [
    pytest.param(action, point, nth, id=f"{action}-{point}-{nth}", marks=marks)
    for action in ("kill", "term")
    for point, nth in GATEWAY
    for marks in ([] if (action, point) == ("kill", "gateway.committed") else [pytest.mark.whole],)
]


@pytest.mark.parametrize(("action", "point", "nth"), HARMS)
async def test_I1_I3_a_gateway_that_dies_at_any_point_makes_one_batch_of_one_request(
    site: Site, fault: Fault, action: str, point: str, nth: int
) -> None:
    fault(f"gateway, {'kill -9' if action == 'kill' else 'SIGTERM'}: {WHEN[point]}", invariants="I1 I2 I3")
    first = await site.gateway()
    await site.worker()
    site.points.at(point, "kill" if action == "kill" else "term", nth=nth)
    creating = asyncio.create_task(site.create([*site.pictures("ok", "ok", "ok"), b"no picture"]))
    status = await first.ended()
    fault.inject()
    assert status == (-9 if action == "kill" else 0)
    await site.gateway()
    fault.handed_over()
    await creating
    found = await fault.proved(site)
    assert found.batches == 1
    assert found.ended == {"SUCCEEDED": 3, "FAILED": 1}


@pytest.mark.whole
async def test_I1_I7_a_gateway_that_dies_with_condemned_slides_in_its_hand_leaves_them_to_the_next(
    site: Site, fault: Fault
) -> None:
    fault("gateway, kill -9: it has taken back the leases of a dead worker", invariants="I1 I7")
    first = await site.gateway()
    images = [site.picture("hold"), *site.pictures("ok", "ok")]
    name = await site.create(images)
    for times in (1, 2, 3):
        worker = await site.worker()
        await site.held(images[0], times=times)
        if times == 3:
            site.points.at("gateway.condemned", "kill")
        await worker.kill()
    # The sweep that finds the third lease run out condemns its slide; the gateway dies before it can say so.
    assert await first.ended() == -9
    assert await site.queue.running("/".join(key_of(name))) == [0]
    fault.inject()
    await site.gateway()
    fault.handed_over()
    await site.worker()
    found = await fault.proved(site)
    assert found.ended == {"SUCCEEDED": 2, "FAILED": 1}
    error = (await outcomes(site, name))[0].error
    assert error is not None
    assert error.reason == "WORKER_CRASHED"
