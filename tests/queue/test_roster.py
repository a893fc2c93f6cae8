"""The roster: who works here, for people who look; nobody who is gone stays on it."""

from __future__ import annotations

import json

from gramserve.queue import Card, Roster
from gramserve.queue.roster import SILENCE_S
from tests.queue.lane import Lane

CARD = Card("0.1.0", 2, 4, 17, 3.5, ("models/gram/versions/3", "models/gram/versions/4"), serving=True)


async def silent_for(lane: Lane, worker: str, seconds: float) -> None:
    """The worker was heard of so long ago."""
    heard_ms = await lane.redis.zscore(lane.key("seen"), worker)
    await lane.redis.zadd(lane.key("seen"), {worker: heard_ms - seconds * 1000})


async def test_a_worker_is_listed_with_what_it_said_last(lane: Lane) -> None:
    roster = Roster(lane.redis, lane.name)
    assert await roster.workers() == []
    await roster.announce("w2", Card("0.0.9", 0, 4, 0, 0.0, (), serving=False))
    await roster.announce("w1", CARD)
    await roster.announce("w2", CARD)
    first, second = await roster.workers()
    assert (first.worker, first.card) == ("w1", CARD)
    assert (second.worker, second.card) == ("w2", CARD)
    assert 0 <= first.age_s < SILENCE_S


async def test_a_worker_that_stopped_is_not_listed_any_more(lane: Lane) -> None:
    roster = Roster(lane.redis, lane.name)
    await roster.announce("w1", CARD)
    await roster.leave("w1")
    assert await roster.workers() == []
    assert await lane.redis.exists(lane.key("roster"), lane.key("seen")) == 0


async def test_a_worker_that_fell_silent_is_left_out_and_its_age_is_told_before(lane: Lane) -> None:
    roster = Roster(lane.redis, lane.name)
    await roster.announce("w1", CARD)
    await silent_for(lane, "w1", SILENCE_S - 5)
    (seen,) = await roster.workers()
    assert seen.age_s >= SILENCE_S - 5
    await silent_for(lane, "w1", 10)
    assert await roster.workers() == []


async def test_I9_workers_that_are_long_gone_leave_nothing_behind(lane: Lane) -> None:
    roster = Roster(lane.redis, lane.name)
    for number in range(20):
        await roster.announce(f"w{number}", CARD)
        await silent_for(lane, f"w{number}", SILENCE_S + 1)
    await roster.announce("w-new", CARD)
    assert await lane.redis.hkeys(lane.key("roster")) == ["w-new"]
    assert await lane.redis.zrange(lane.key("seen"), 0, -1) == ["w-new"]


async def test_what_another_release_says_is_understood_as_far_as_it_goes(lane: Lane) -> None:
    roster = Roster(lane.redis, lane.name)
    await roster.announce("w1", CARD)
    await roster.announce("w2", CARD)
    await lane.redis.hset(lane.key("roster"), "w1", json.dumps({"release": "9.9", "ready": 3, "new": [1]}))
    await lane.redis.hset(lane.key("roster"), "w2", "not JSON at all")
    first, second = await roster.workers()
    assert (first.card.release, first.card.ready, first.card.models) == ("9.9", 3, ())
    assert (second.worker, second.card.serving) == ("w2", False)
