"""What the worker keeps of a child that it does not listen to all the time: room, blame and time."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from gramserve.queue import Lease
from inference_svc import process
from inference_svc.frames import Frames
from inference_svc.process import ChildProcess
from inference_svc.protocol import Failed, Finished, Message, Models, Ready, RunSlide, Started, VersionLoaded, pack
from inference_svc.slide import Held, Slide
from inference_svc.work import Crashed, Ticket, TimedOut, Withdrawn
from tests.waiting import until


class Stub:
    """Stands for the process behind the socket: notes when it is killed."""

    pid = 1

    def __init__(self) -> None:
        self.returncode: int | None = None
        self.killed_s = 0.0

    def kill(self) -> None:
        self.returncode, self.killed_s = -9, asyncio.get_running_loop().time()

    async def wait(self) -> None:
        self.returncode = self.returncode or -9


class Line:
    """A child, its end of the socket, and a task that hears it with `limit_s` for each piece of work."""

    def __init__(self, child: ChildProcess, stub: Stub, theirs: socket.socket) -> None:
        self.child, self.stub, self.theirs = child, stub, theirs
        self.heard: list[Message] = []

    def say(self, *messages: Message) -> None:
        self.theirs.sendall(b"".join(map(pack, messages)))

    async def hear(self, limit_s: float) -> None:
        async for messages in self.child.messages(limit_s):
            self.heard += messages

    def give(self) -> tuple[int, Ticket]:
        ticket = Ticket(RunSlide(0, "lab", (), "models/m/versions/1", "d"))
        self.child.give(ticket)
        return next(number for number, given in self.child.pending.items() if given is ticket), ticket


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    ours, theirs = socket.socketpair()
    _, frames = await asyncio.get_running_loop().create_connection(Frames, sock=ours)
    stub = Stub()
    with theirs:
        yield Line(ChildProcess(stub, frames, cpu_s=300.0), stub, theirs)  # type: ignore[arg-type]
    frames.close()
    await until(lambda: frames.broken or ours.fileno() < 0)


def finished(number: int, seconds: float = 0.0) -> Finished:
    return Finished(number, {}, 1, 0.0, {"infer": seconds}, "engine", "d")


async def test_each_piece_of_work_has_its_whole_time_however_quick_those_before_it_were(line: Line) -> None:
    loop = asyncio.get_running_loop()
    hearing = asyncio.create_task(line.hear(1.0))
    (one, first), (two, second) = line.give(), line.give()
    line.say(Ready(), Started(one))
    began_s = loop.time()
    await until(lambda: loop.time() > began_s + 0.5)
    again_s = loop.time()
    line.say(finished(one), Started(two))
    await until(lambda: line.stub.killed_s)
    assert line.stub.killed_s - again_s >= 1.0
    line.theirs.close()
    await hearing
    await line.child.end(1.0)
    assert isinstance(first.ending.result(), Finished)
    assert second.ending.result() == TimedOut(1.0)


async def test_the_time_to_start_ends_when_the_child_is_ready_whatever_it_says_with_that(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "START_TIMEOUT_S", 0.5)
    loop = asyncio.get_running_loop()
    hearing = asyncio.create_task(line.hear(60.0))
    number, _ = line.give()
    line.say(Ready(), Started(number))
    came_s = loop.time()
    await until(lambda: loop.time() > came_s + 1.0)
    assert line.heard
    assert not line.stub.killed_s
    line.theirs.close()
    await hearing
    await line.child.end(60.0)


async def test_what_a_child_said_while_nobody_listened_counts_when_it_dies(line: Line) -> None:
    hearing = asyncio.create_task(line.hear(60.0))
    slides = [line.give() for _ in range(3)]
    line.say(Ready(), Started(slides[0][0]))
    await until(lambda: len(line.heard) == 2)
    line.child._frames.pause(60.0)
    line.say(finished(slides[0][0]), Started(slides[1][0]))
    line.theirs.close()
    line.child._frames.resume()
    await hearing
    await line.child.end(60.0)
    first, second, third = (ticket.ending.result() for _, ticket in slides)
    assert isinstance(first, Finished)
    assert isinstance(second, Crashed)
    assert isinstance(third, Withdrawn)


async def test_the_worker_rests_from_a_child_with_plenty_of_quick_slides_and_not_from_one_with_urgent_work(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(line.child._frames, "pause", pauses.append)
    hearing = asyncio.create_task(line.hear(60.0))
    line.say(Ready())
    numbers = [line.give()[0] for _ in range(40)]
    for number in numbers[:30]:
        line.say(Started(number), finished(number, 0.002))
    await until(lambda: line.child.slides == 10)
    assert pauses
    urgent = Ticket(RunSlide(0, "lab", (), "models/m/versions/1", "d", urgent=True))
    line.child.give(urgent)
    pauses.clear()
    line.say(Started(numbers[30]), finished(numbers[30], 0.002))
    await until(lambda: line.child.slides == 10)
    assert line.child.urgent == 1
    assert not pauses
    line.theirs.close()
    await hearing
    await line.child.end(60.0)


def test_a_slide_is_coming_until_the_children_have_it_or_it_is_gone() -> None:
    held = Held(lambda: None)
    slides = [
        Slide(Lease("lab/b", n, 0, f"t{n}", 0, 0, False, "models/m/versions/1", "d", 0.0, 10.0, False), 10.0)
        for n in range(3)
    ]
    for slide in slides:
        held.add(slide)
    assert held.coming == 3
    slides[0].ticket = object()  # type: ignore[assignment]
    assert held.coming == 2
    held.remove(slides[1])
    assert held.coming == 1
    assert len(held) == 2


def loaded(version: str, step: str) -> VersionLoaded:
    return VersionLoaded(version, "engine", {step: 0.1}, (), (), {}, {})


@pytest.mark.parametrize(
    "said",
    [
        Finished(0, {}, 1, 0.0, {"Jane Doe": 0.1}, "engine", "d"),
        Failed(0, "JANE_DOE", "", retryable=True),
        Failed(0, "MODEL_UNAVAILABLE", "", retryable=True, cause="JANE_DOE"),
        loaded("models/m/versions/1", "Jane Doe"),
        loaded("models/other/versions/1", "fetch"),
        loaded("nonsense", "fetch"),
        Models(("models/other/versions/1",)),
    ],
    ids=["stage", "reason", "cause", "step", "version", "no version", "models"],
)
async def test_a_child_whose_words_would_be_labels_of_metrics_is_killed_for_others_than_there_are(
    line: Line, said: Message
) -> None:
    number, _ = line.give()
    hearing = asyncio.create_task(line.hear(10.0))
    line.say(Ready(), Started(number), loaded("models/m/versions/1", "fetch"), Models(("models/m/versions/1",)))
    await until(lambda: len(line.heard) == 4)
    line.say(replace(said, id=number) if isinstance(said, Finished | Failed) else said)
    await hearing
    assert line.stub.returncode == -9
    assert len(line.heard) == 4
