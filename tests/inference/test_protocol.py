"""Frames survive the socket; what is none is refused."""

from __future__ import annotations

import asyncio
import socket

import pytest

from gramserve.store.records import ImageRecord
from inference_svc import protocol
from inference_svc.child import Inbox
from inference_svc.protocol import BrokenProtocol, Finished, Forget, RunSlide, Wire

SLIDE = RunSlide(7, "lab", (ImageRecord(sha256="a" * 64), ImageRecord(uri="/x")), "models/m/versions/1", "d" * 64)


async def test_what_a_child_sends_is_what_the_worker_reads() -> None:
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours)
    sent = Finished(3, {"outcome": "ORGANISMS_SEEN"}, 16, 0.25, {"fetch": 0.5}, "engine", "d" * 64)
    with theirs:
        Wire(theirs).send(sent)
        assert await protocol.read(reader) == sent
    assert await protocol.read(reader) is None
    writer.close()
    await writer.wait_closed()


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
