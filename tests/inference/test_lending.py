"""A child without network gets the bytes that its work names from its worker, whole, and nothing else of the store."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from gramserve.errors import Exhausted, Reason, Unavailable
from gramserve.store.faults import full, unavailable
from gramserve.store.layout import outcome_path, reuse_path, slide_path
from gramserve.store.objects import ObjectMissing, RemoteObjects
from gramserve.store.records import ImageRecord
from inference_svc import lending
from inference_svc.lending import BorrowedObjects, Lender, names
from inference_svc.protocol import Combine, LoadModel, RunSlide
from tests.waiting import HANGS_S, until

SHA256, OTHER, KEY = "a" * 64, "b" * 64, "c" * 64
SLIDE = RunSlide(7, "north", (ImageRecord(sha256=SHA256),), "models/gram/versions/1", "d" * 64, reuse=KEY)


class Counter:
    """A worker that lends, and the socket of its child."""

    def __init__(self, may_read: Callable[[str], bool] = lambda path: True) -> None:
        self.objects = RemoteObjects(MemoryStore(), "s3://bucket")
        self.lender = Lender(self.objects)
        self.child = self.lender.theirs.dup()  # a child inherits it
        self.borrowed = BorrowedObjects(self.child)
        self.threads = ThreadPoolExecutor(32)  # the child's, apart from those of the worker
        self.lender.start(may_read)

    async def get(self, path: str) -> bytes:
        """What a thread of the child reads."""
        return await asyncio.get_running_loop().run_in_executor(self.threads, self.borrowed.get_sync, path)

    def close(self) -> None:
        """Both ends."""
        self.lender.close()
        self.threads.shutdown(wait=False)
        self.child.close()


@pytest.fixture
async def counter() -> AsyncIterator[Counter]:
    made = Counter()
    yield made
    made.close()


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 200, 250])
async def test_an_object_comes_whole_in_however_many_parts(
    counter: Counter, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(lending, "PART_BYTES", 100)
    data = os.urandom(size)
    await counter.objects.put("slides/x", data)
    assert await counter.get("slides/x") == data


async def test_what_is_lent_is_read_and_not_written_and_leaves_no_file(counter: Counter) -> None:
    await counter.objects.put("slides/x", b"a whole slide")
    handle = await asyncio.to_thread(counter.borrowed.open_sync, "slides/x")
    try:
        assert os.pread(handle, 5, 8) == b"slide"
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(handle, b"x")
        assert os.fstat(handle).st_nlink == 0
        assert not os.get_inheritable(handle)
    finally:
        os.close(handle)


async def test_threads_that_ask_at_once_get_each_what_it_asked_for(counter: Counter) -> None:
    """More of them than are answered at once."""
    for n in range(5 * lending.MOST_AT_ONCE):
        await counter.objects.put(f"slides/{n}", str(n).encode())
    found = await asyncio.gather(*(counter.get(f"slides/{n}") for n in range(5 * lending.MOST_AT_ONCE)))
    assert found == [str(n).encode() for n in range(5 * lending.MOST_AT_ONCE)]


@pytest.mark.parametrize("path", ["slides/none", "../etc/passwd", "", "\N{SNOWMAN}", "x" * 5000])
async def test_what_is_not_there_or_is_no_name_is_missing(counter: Counter, path: str) -> None:
    with pytest.raises(ObjectMissing):
        await counter.get(path)


async def test_what_its_work_does_not_name_is_missing_for_a_child() -> None:
    work = [SLIDE]
    counter = Counter(lambda path: any(names(one, path) for one in work))
    try:
        for laboratory in ("north", "south"):
            await counter.objects.put(slide_path(laboratory, SHA256), laboratory.encode())
        assert await counter.get(slide_path("north", SHA256)) == b"north"
        with pytest.raises(ObjectMissing):
            await counter.get(slide_path("south", SHA256))
        work.clear()  # it has ended
        with pytest.raises(ObjectMissing):
            await counter.get(slide_path("north", SHA256))
    finally:
        counter.close()


def test_work_names_its_images_its_model_version_and_its_earlier_call_and_nothing_else() -> None:
    mine = [slide_path("north", SHA256), "models/gram/versions/1/model.onnx", reuse_path("north", KEY)]
    assert all(names(SLIDE, path) for path in mine)
    foreign = [
        slide_path("north", OTHER),
        slide_path("south", SHA256),
        reuse_path("south", KEY),
        reuse_path("north", OTHER),
        "models/gram/versions/11/model.onnx",
        "models/gram/aliases/production",
        outcome_path("north", "b", 0, 0),
        "audit/start.json",
    ]
    assert not [path for path in foreign if names(SLIDE, path)]
    for work in (LoadModel(1, SLIDE.version, ""), Combine(1, SLIDE.version, "", "")):
        assert [path for path in [*mine, *foreign] if names(work, path)] == ["models/gram/versions/1/model.onnx"]


@pytest.mark.parametrize(("trouble", "error"), [(unavailable(), Unavailable), (full(), Exhausted)])
async def test_trouble_of_the_store_is_trouble_of_the_child(
    counter: Counter, monkeypatch: pytest.MonkeyPatch, trouble: Exception, error: type[Exception]
) -> None:
    async def fail(*_given: object) -> bytes:
        raise trouble

    monkeypatch.setattr(counter.objects, "get_range", fail)
    with pytest.raises(error):
        await counter.get("slides/x")


async def test_a_child_that_waits_when_its_worker_stops_lending_is_told(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = asyncio.Event()

    async def hang(*_given: object) -> bytes:
        asked.set()
        await asyncio.Event().wait()
        return b""

    monkeypatch.setattr(counter.objects, "get_range", hang)
    waiting = asyncio.create_task(counter.get("slides/x"))
    await asked.wait()
    counter.lender.close()
    with pytest.raises(Unavailable) as caught:
        await waiting
    assert caught.value.reason is Reason.STORE_UNAVAILABLE


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_a_child_that_asks_and_hangs_up_or_sends_nonsense_harms_nobody(counter: Counter) -> None:
    await counter.objects.put("slides/x", b"x")
    opened = open_files()
    for _ in range(3 * lending.MOST_AT_ONCE):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            socket.send_fds(counter.child, [b"slides/x"], [theirs.fileno(), ours.fileno()])
    assert await counter.get("slides/x") == b"x"
    await until(lambda: open_files() <= opened)
    with suppress(BlockingIOError):
        counter.child.send(b"no socket to answer on")
    await asyncio.sleep(0)


async def test_a_handle_that_is_no_socket_is_closed_and_the_next_request_is_answered(counter: Counter) -> None:
    await counter.objects.put("slides/x", b"x")
    opened = open_files()
    with Path(os.devnull).open("rb") as nothing:
        for _ in range(5):
            socket.send_fds(counter.child, [b"slides/x"], [nothing.fileno()])
        assert await counter.get("slides/x") == b"x"
    await until(lambda: open_files() <= opened)


async def test_a_worker_without_room_for_a_handle_says_so_and_lends_again_later(counter: Counter) -> None:
    await counter.objects.put("slides/x", b"x")
    await counter.get("slides/x")  # so that a thread is there already
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            socket.send_fds(counter.child, [b"slides/x"], [theirs.fileno()])
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        try:
            await asyncio.sleep(0.05)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        ours.settimeout(HANGS_S)
        assert await asyncio.to_thread(ours.recv, 1) == b"", "it hears at once, without an answer"
    async with asyncio.timeout(HANGS_S):
        assert await counter.get("slides/x") == b"x"
