"""Frames survive the socket; what is none is refused."""

from __future__ import annotations

import asyncio
import itertools
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gramserve.store.records import ImageRecord
from inference_svc import protocol
from inference_svc.child import Inbox
from inference_svc.frames import Frames
from inference_svc.protocol import BrokenProtocol, Finished, Forget, Inferred, Parser, RunSlide, Started
from inference_svc.wire import Wire

SLIDE = RunSlide(7, "lab", (ImageRecord(sha256="a" * 64), ImageRecord(uri="/x")), "models/m/versions/1", "d" * 64)


FINISHED = Finished(3, {"outcome": "ORGANISMS_SEEN"}, 16, 0.25, {"fetch": 0.5}, "engine", "d" * 64)


async def heard() -> tuple[Frames, socket.socket]:
    """What a worker hears, and the end of the socket that a child has."""
    ours, theirs = socket.socketpair()
    _, frames = await asyncio.get_running_loop().create_connection(Frames, sock=ours)
    return frames, theirs


async def test_what_a_child_sends_is_what_the_worker_reads() -> None:
    frames, theirs = await heard()
    with theirs:
        Wire(theirs).send(FINISHED)
        assert await frames.some() == [FINISHED]
    assert await frames.some() is None
    assert not frames.broken


async def test_while_a_child_is_not_listened_to_its_messages_gather_and_none_is_lost_when_it_dies() -> None:
    frames, theirs = await heard()
    with theirs:
        frames.pause(60.0)
        wire = Wire(theirs)
        for number in range(3):
            wire.send(Started(number))
        waiting = asyncio.create_task(frames.some())
        await asyncio.sleep(0)
        assert not waiting.done()
    frames.resume()
    assert await waiting == [Started(0), Started(1), Started(2)]
    assert await frames.some() is None


async def test_a_pause_ends_by_itself() -> None:
    frames, theirs = await heard()
    with theirs:
        frames.pause(0.001)
        Wire(theirs).send(Started(1))
        assert await frames.some() == [Started(1)]


async def test_messages_before_one_that_is_broken_count() -> None:
    frames, theirs = await heard()
    with theirs:
        theirs.sendall(protocol.pack(FINISHED) + protocol.pack(Started(4)) + b"\xff" * 64)
        assert await frames.some() == [FINISHED, Started(4)]
        assert await frames.some() is None
        assert frames.broken


@given(
    messages=st.lists(st.sampled_from([FINISHED, Started(1), Inferred(2, 1, 0.1, 0.2, 0.3, b"x" * 300)])),
    data=st.data(),
)
def test_frames_may_come_in_any_pieces(messages: list[protocol.Message], data: st.DataObject) -> None:
    parser, stream = Parser(), b"".join(map(protocol.pack, messages))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=9)))
    pieces = [stream[start:end] for start, end in itertools.pairwise([0, *cuts, len(stream)])]
    assert [message for piece in pieces for message in parser.feed(piece)] == messages


def test_what_the_worker_sends_is_what_a_child_receives() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        wire = Wire(theirs)
        assert not wire.waiting()
        ours.sendall(protocol.pack(SLIDE))
        assert wire.waiting()
        assert wire.receive() == SLIDE
        ours.close()
        assert wire.receive() is None


@pytest.mark.parametrize(
    "head", [b"\xff\xff\xff\xff\0\0\0\0\x01", b"\0\0\0\x02\xff\xff\xff\xff\x01", b"\0\0\0\x02\0\0\0\0\x63"]
)
def test_frames_that_are_too_long_or_of_no_kind_are_refused(head: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(head)
        with pytest.raises(BrokenProtocol):
            Wire(theirs).receive()


def test_bytes_behind_a_message_that_takes_none_break_the_protocol() -> None:
    body = b"{}"
    frame = struct.pack(">IIB", len(body), 3, protocol.pack(protocol.Ready())[8]) + body + b"abc"
    with pytest.raises(BrokenProtocol):
        list(protocol.Parser().feed(frame))


def test_work_that_was_taken_back_is_not_begun() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for message in (SLIDE, RunSlide(8, "lab", (), "v", "d"), Forget(7)):
            ours.sendall(protocol.pack(message))
        inbox = Inbox(Wire(theirs))
        work = inbox.next()
        assert work is not None
        assert work.id == 8
        ours.close()
        assert inbox.next() is None
