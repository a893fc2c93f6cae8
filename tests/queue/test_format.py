"""A lane that another release keeps in another format is refused, and stays as it is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from gramserve.errors import Reason, Unsafe
from gramserve.queue import Queue
from gramserve.queue.format import FORMAT
from tests.queue.lane import Lane

Call = Callable[[Lane], Awaitable[object]]


async def test_the_first_batch_gives_a_lane_the_format_of_its_release(lane: Lane, queue: Queue) -> None:
    await queue.check_safe(allow_volatile=False)
    assert await lane.redis.get(lane.key("format")) is None, "a look changes nothing"
    await lane.fill("lab/b", 2)
    assert await lane.redis.get(lane.key("format")) == FORMAT
    await queue.check_safe(allow_volatile=False)
    assert len(await queue.lease("w1", 2, idle=True)) == 2


@pytest.mark.parametrize(
    "call",
    [
        lambda lane: lane.queue.check_safe(allow_volatile=False),
        lambda lane: lane.queue.server(),
        lambda lane: lane.open("lab/c", 1),
        lambda lane: lane.queue.lease("w1", 1, idle=True),
    ],
    ids=["start", "look", "open", "lease"],
)
async def test_I15_a_lane_of_another_format_is_refused_before_anything_changes(
    call: Call, lane: Lane, queue: Queue
) -> None:
    await lane.fill("lab/b", 2)
    await lane.redis.set(lane.key("format"), "999")
    before = (await lane.keys(), await lane.places())
    with pytest.raises(Unsafe, match="format 999, here 1") as caught:
        await call(lane)
    assert caught.value.reason is Reason.UNSAFE_REDIS
    assert caught.value.metadata == {"format": "999", "own_format": FORMAT}
    assert (await lane.keys(), await lane.places()) == before


async def test_what_was_leased_before_can_still_be_given_back_and_completed(lane: Lane, queue: Queue) -> None:
    """Nobody empties a Redis under running services and has them keep their leases; the tokens decide, as always."""
    await lane.fill("lab/b", 2)
    done, back = await queue.lease("w1", 2, idle=True)
    await lane.redis.set(lane.key("format"), "999")
    assert (await queue.complete(done, "w1", "SUCCEEDED")).accepted
    assert await queue.release([back], "w1") == 1
