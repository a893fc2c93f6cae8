"""The harness and the checker themselves: a checker that finds nothing would prove nothing."""

from __future__ import annotations

import pytest

from gramserve.store import layout
from gramserve.store.records import OutcomeRecord, SlideState
from tests.faults.checker import check, in_one_place, inspect
from tests.faults.harness import LABORATORY, Site, key_of


async def test_a_checker_finds_nothing_wrong_with_a_quiet_night_and_every_kind_of_harm_done_to_it(site: Site) -> None:
    await site.gateway()
    worker = await site.worker()
    name = await site.create([*site.pictures("ok", "ok", "ok"), b"no picture"])
    found = await check(site)
    await worker.kill()  # it would take what is put into the queue now
    assert (found.batches, found.accepted, found.lost, found.duplicated) == (1, 4, 0, 0)
    assert found.ended == {"SUCCEEDED": 3, "FAILED": 1}
    laboratory, batch = key_of(name)
    key = f"{laboratory}/{batch}"

    async def broken() -> str:
        return "\n".join((await inspect(site)).broken)

    await site.redis_client.zadd("{gs:slides}:ready", {f"{key}/000001": 1})
    assert "I8: still in ready" in await broken()
    await site.redis_client.delete("{gs:slides}:ready")
    await site.redis_client.hset("{gs:slides}:entry:" + f"{key}/000001", "token", "x")
    assert "I9: kept after the drain" in await broken()
    await site.redis_client.delete("{gs:slides}:entry:" + f"{key}/000001")
    assert await broken() == ""

    events = await site.redis_client.xrange("{gs:slides}:events:" + key)
    await site.redis_client.xdel("{gs:slides}:events:" + key, events[2][0])
    assert "have gaps" in await broken()
    outcome = layout.outcome_path(laboratory, batch, 0, 1)
    kept = await site.objects.get(outcome)
    await site.objects.delete(outcome)
    found = await inspect(site)
    assert found.lost == 1
    assert "I1: slide 1" in "\n".join(found.broken)
    await site.objects.put(outcome, kept)
    results = site.batches.output_path(laboratory, batch, 0, "results-00001.jsonl")
    data = await site.objects.get(results)
    await site.objects.put(results, data + data)
    assert "I2: the rows" in await broken()
    assert (await inspect(site)).duplicated == 3
    await site.objects.put(results, data)
    await site.objects.delete(layout.final_path(laboratory, batch, 0))
    assert "I1" in await broken()
    site.accepted[f"laboratories/{LABORATORY}/slideBatches/unknown"] = 2
    assert "is not in the store" in await broken()


async def test_I8_a_slide_in_two_places_is_found_while_work_goes_on(site: Site) -> None:
    await site.gateway()
    name = await site.create(site.pictures("ok", "ok"))
    assert await in_one_place(site, name) == 2
    await site.redis_client.zadd("{gs:slides}:delayed", {"/".join(key_of(name)) + "/000001": 1})
    with pytest.raises(AssertionError, match="I8: in two places"):
        await in_one_place(site, name)


async def test_a_point_is_reached_waits_and_lets_go(site: Site) -> None:
    await site.gateway()
    worker = await site.worker()
    site.points.at("worker.recorded", "wait")
    name = await site.create(site.pictures("ok"))
    assert await site.points.reached("worker.recorded") == worker.pid
    laboratory, batch = key_of(name)
    outcome = await site.batches.outcome(laboratory, batch, 0)
    assert isinstance(outcome, OutcomeRecord)
    assert outcome.state is SlideState.SUCCEEDED
    snapshot = await site.queue.snapshot(f"{laboratory}/{batch}")
    assert snapshot is not None
    assert (snapshot.running, snapshot.succeeded) == (1, 0)
    site.points.go("worker.recorded")
    await check(site)
