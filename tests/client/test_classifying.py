"""Single slides: quick ways in, one answer, however often the call breaks."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gramserve.client import GramserveClient
from gramserve.errors import Conflict, DeadlineExceeded, Reason, Unavailable
from gramserve.store import layout
from gramserve.v1 import slide_batch_service_pb2_grpc
from gramserve.v1.slide_batch_pb2 import Image, SlideSource
from gramserve.v1.slide_pb2 import Slide
from tests.client.desk import IMPATIENT, serving
from tests.gateway.stack import Stack, new_request_id
from tests.waiting import HANGS_S, until

GRAMSERVE = str(Path(sys.executable).with_name("gramserve"))
SOURCE = SlideSource(slide_id="S-1", images=[Image(content=b"pixels")])


@dataclass
class Desk(slide_batch_service_pb2_grpc.SlideBatchServiceServicer):
    """Answers each ClassifySlide with the next of `answers`."""

    answers: list[Callable[[], Slide]]
    request_ids: list[str] = field(default_factory=list)

    async def ClassifySlide(self, request: Any, context: Any) -> Slide:
        self.request_ids.append(request.request_id)
        return self.answers.pop(0)()

    def register(self, server: Any) -> None:
        slide_batch_service_pb2_grpc.add_SlideBatchServiceServicer_to_server(self, server)


def _raise(error: Exception) -> Slide:
    raise error


def cancelled() -> Slide:
    return _raise(Conflict(Reason.CANCELLED, "cancelled"))


def away() -> Slide:
    return _raise(Unavailable(Reason.QUEUE_UNAVAILABLE, "away", retry_after_s=0.01))


def done() -> Slide:
    return Slide(slide_id="S-1", state=Slide.STATE_SUCCEEDED)


async def test_a_slide_is_called_with_small_fields_inside_and_large_ones_uploaded(
    stack: Stack, client: GramserveClient, tmp_path: Path
) -> None:
    large = tmp_path / "large.png"
    large.write_bytes(bytes(2 << 20))
    source = await client.inline_slide("S-1", [b"small", large], specimen_type="csf")
    assert [image.WhichOneof("source") for image in source.images] == ["content", "sha256"]
    assert await stack.objects.get(layout.slide_path("north", source.images[1].sha256)) == bytes(2 << 20)
    async with stack.worker.working():
        slide = await client.classify_slide(source, model="models/gram", timeout_s=HANGS_S)
    assert (slide.slide_id, slide.call.findings[0].label) == ("S-1", "GNR")


async def test_fields_go_inside_only_as_long_as_they_make_no_large_message(client: GramserveClient) -> None:
    source = await client.inline_slide("S-1", [bytes(1 << 20)] * 12)
    kinds = [image.WhichOneof("source") for image in source.images]
    assert kinds == ["content"] * 8 + ["sha256"] * 4


async def test_after_the_deadline_the_error_names_the_batch(stack: Stack, client: GramserveClient) -> None:
    call = asyncio.create_task(client.classify_slide(SOURCE, model="models/gram"))
    await until(lambda: _stat_waits(stack))
    stack.deadline_passes()
    with pytest.raises(DeadlineExceeded) as caught:
        await call
    assert caught.value.reason is Reason.EXPIRED
    assert (await client.get_batch(caught.value.metadata["slide_batch"])).completion_stats.total_count == 1


async def test_a_client_that_gives_up_cancels_the_slide(stack: Stack, client: GramserveClient) -> None:
    task = asyncio.create_task(client.classify_slide(SOURCE, model="models/gram"))
    await until(lambda: _stat_waits(stack))
    task.cancel()

    async def gone() -> bool:
        return (await stack.queue.depth()).ready_stat == 0

    await until(gone)
    assert await stack.worker.lease() == []


async def _stat_waits(stack: Stack) -> bool:
    return (await stack.queue.depth()).ready_stat == 1


async def test_a_service_that_is_away_is_asked_again_with_the_same_request_id() -> None:
    desk = Desk([away, away, done])
    async with serving(desk.register) as address, GramserveClient(address, patience=IMPATIENT) as client:
        assert (await client.classify_slide(SOURCE)).state == Slide.STATE_SUCCEEDED
    assert len(desk.request_ids) == 3
    assert len(set(desk.request_ids)) == 1


async def test_a_broken_call_that_cancelled_its_slide_is_made_anew() -> None:
    desk = Desk([away, cancelled, done])
    async with serving(desk.register) as address, GramserveClient(address, patience=IMPATIENT) as client:
        assert (await client.classify_slide(SOURCE)).state == Slide.STATE_SUCCEEDED
    assert len(set(desk.request_ids)) == 2


async def test_a_request_id_of_the_caller_is_never_replaced() -> None:
    desk, request_id = Desk([cancelled]), new_request_id()
    async with serving(desk.register) as address, GramserveClient(address, patience=IMPATIENT) as client:
        with pytest.raises(Conflict):
            await client.classify_slide(SOURCE, request_id=request_id)
    assert desk.request_ids == [request_id]


async def test_the_command_shows_the_call_of_each_slide_and_says_when_one_has_none(
    stack: Stack, tmp_path: Path
) -> None:
    for name in ("A", "B"):
        (tmp_path / f"{name}.png").write_bytes(name.encode())
    assert stack.app is not None
    words = ["--model", "gram", "--gateway", f"127.0.0.1:{stack.app.port}", "--laboratory", "north"]
    paths = [str(tmp_path / "A.png"), str(tmp_path / "B.png")]

    async def gramserve(*more: str) -> subprocess.CompletedProcess[str]:
        command = [GRAMSERVE, "classify", *more, *words]
        return await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, timeout=HANGS_S, check=False
        )

    async with stack.worker.working():
        shown = await gramserve(*paths, "--output", str(tmp_path / "calls.jsonl"))
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.count("GNR") == 2
    assert len((tmp_path / "calls.jsonl").read_text().splitlines()) == 2
    late = await gramserve(paths[0], "--timeout", "1")
    assert late.returncode == 2
    assert late.stderr.count("\n") == 1
    assert "EXPIRED" in late.stderr
