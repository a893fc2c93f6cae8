"""How long a client bears a silent service."""

from __future__ import annotations

import pytest

from gramserve.client import GramserveClient, Patience
from gramserve.errors import Exhausted, InvalidInput, Reason, Unavailable
from gramserve.v1.slide_batch_pb2 import SlideBatch
from tests.client.desk import IMPATIENT, BatchDesk, batch_desk, serving


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0
        self.waits: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


def patience(clock: Clock, total_s: float = 10.0) -> Patience:
    return Patience(
        total_s=total_s, first_wait_s=1.0, longest_wait_s=4.0, clock=clock, sleep=clock.sleep, jitter=lambda: 1.0
    )


AWAY = Unavailable(Reason.QUEUE_UNAVAILABLE, "away")


async def test_waits_double_up_to_the_longest_and_end_with_the_patience() -> None:
    clock = Clock()
    backoff = patience(clock).backoff()
    for _ in range(3):
        await backoff.wait_after(AWAY)
    with pytest.raises(Unavailable):
        await backoff.wait_after(AWAY)
    assert clock.waits == [1.0, 2.0, 4.0]


async def test_a_wait_that_the_service_asks_for_wins() -> None:
    clock = Clock()
    await patience(clock).backoff().wait_after(Exhausted(Reason.QUEUE_FULL, "full", retry_after_s=7.0))
    assert clock.waits == [7.0]


async def test_progress_renews_the_patience() -> None:
    clock = Clock()
    backoff = patience(clock).backoff()
    for _ in range(20):
        await backoff.wait_after(AWAY)
        backoff.reset()
    assert clock.waits == [1.0] * 20


@pytest.mark.parametrize(
    "error",
    [
        InvalidInput(Reason.INVALID_FIELD, "never works"),
        Exhausted(Reason.MESSAGE_TOO_LARGE, "a limit that does not move"),
    ],
)
async def test_what_can_never_work_is_not_tried_again(error: Exception) -> None:
    clock = Clock()
    with pytest.raises(type(error)):
        await patience(clock).backoff().wait_after(error)
    assert clock.waits == []


async def test_I3_all_attempts_of_a_create_have_one_request_id() -> None:
    answers = [AWAY, Exhausted(Reason.QUEUE_FULL, "full", retry_after_s=0.01), SlideBatch(name="made")]

    def create(request: object) -> SlideBatch:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    desk = BatchDesk(create=create)
    async with serving(batch_desk(desk)) as target, GramserveClient(target, patience=IMPATIENT) as client:
        assert (await client.create_batch(model="models/m")).name == "made"
    assert len(desk.requests) == 3
    assert len({request.request_id for request in desk.requests}) == 1
    assert desk.requests[0].request_id


async def test_a_refused_create_keeps_reason_message_and_violations() -> None:
    def create(request: object) -> SlideBatch:
        raise InvalidInput(Reason.NO_SLIDES, "no slides", violations=[("slide_batch.slides", "is empty")])

    async with (
        serving(batch_desk(BatchDesk(create=create))) as target,
        GramserveClient(target, patience=IMPATIENT) as client,
    ):
        with pytest.raises(InvalidInput) as caught:
            await client.create_batch(model="models/m")
    assert caught.value.reason is Reason.NO_SLIDES
    assert caught.value.violations == (("slide_batch.slides", "is empty"),)


async def test_a_service_that_is_not_there_is_said_at_once() -> None:
    async with serving() as target:
        pass
    async with GramserveClient(target) as client:
        with pytest.raises(Unavailable) as caught:
            await client.connect(timeout_s=0.3)
    assert caught.value.reason is Reason.SERVICE_UNAVAILABLE
