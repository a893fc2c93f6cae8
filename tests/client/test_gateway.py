"""The client against a real gateway, store and Redis."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gramserve.client import GramserveClient, Patience
from gramserve.errors import AlreadyExists, InvalidInput, NotFound, PreconditionFailed, Reason
from gramserve.v1.slide_batch_pb2 import SlideBatch
from gramserve.v1.slide_batch_service_pb2 import WatchSlideBatchResponse
from gramserve.v1.slide_pb2 import Slide
from tests.faults.proxy import fault_proxy
from tests.gateway.stack import Stack, new_request_id, slides
from tests.waiting import HANGS_S, until


async def test_a_batch_is_created_watched_and_read(stack: Stack, client: GramserveClient) -> None:
    due = datetime.now(UTC) + timedelta(hours=8)
    batch = await client.create_batch(
        slides(3), model="models/gram", stat=True, deliver_by=due, annotations={"run": "7"}, max_failed_ratio=0.5
    )
    assert batch.model_version == "models/gram/versions/1"
    assert batch.priority == SlideBatch.PRIORITY_STAT
    assert batch.deliver_by.ToDatetime(UTC) == due
    assert dict(batch.annotations) == {"run": "7"}
    await stack.worker.drain()
    ended = await client.wait_for_batch(batch.name)
    assert ended.state == SlideBatch.STATE_SUCCEEDED
    found = [slide async for slide in client.results(batch.name)]
    assert [slide.slide_id for slide in found] == ["S-00000", "S-00001", "S-00002"]
    assert found[0].call.findings[0].label == "GNR"
    assert [b.name async for b in client.list_batches()] == [batch.name]
    assert [b.name async for b in client.list_batches("priority=ROUTINE")] == []
    last = batch.name.rpartition("/")[2]
    assert await client.get_batch(last) == await client.get_batch(batch.name)
    laboratory = batch.name.split("/")[1]
    assert await client.get_batch(f"{laboratory}/{last}") == await client.get_batch(batch.name)  # as status shows it


async def test_I3_one_request_id_is_one_batch(client: GramserveClient) -> None:
    request_id = new_request_id()
    made = await asyncio.gather(
        *(client.create_batch(slides(2), model="models/gram", request_id=request_id) for _ in range(4))
    )
    assert len({batch.name for batch in made}) == 1
    with pytest.raises(AlreadyExists) as caught:
        await client.create_batch(slides(3), model="models/gram", request_id=request_id)
    assert caught.value.reason is Reason.REQUEST_ID_REUSED


async def test_a_watch_survives_restarts_of_the_gateway_without_gap_or_repeat(
    stack: Stack, client: GramserveClient
) -> None:
    assert stack.app is not None
    listen = f"127.0.0.1:{stack.app.port}"
    batch = await client.create_batch(slides(6), model="models/gram")
    events: list[WatchSlideBatchResponse] = []

    async def watch() -> None:
        async for event in client.watch_batch(batch.name):
            events.append(event)  # noqa: PERF401  read meanwhile

    def done() -> list[int]:
        return [event.slide.index for event in events if event.slide.state == Slide.STATE_SUCCEEDED]

    watching = asyncio.create_task(watch())
    for number in range(6):
        (lease,) = await stack.worker.lease()
        await stack.worker.finish(lease)
        await until(lambda expected=number + 1: len(done()) == expected)
        if number % 2:
            await stack.restart(listen=listen)
    await asyncio.wait_for(watching, HANGS_S)
    assert sorted(done()) == list(range(6))
    assert events[-1].slide_batch.state == SlideBatch.STATE_SUCCEEDED


async def test_failed_slides_are_retried_and_watched_to_the_new_end(stack: Stack, client: GramserveClient) -> None:
    batch = await client.create_batch(slides(3), model="models/gram")
    await stack.worker.drain(failing={1})
    assert (await client.wait_for_batch(batch.name)).state == SlideBatch.STATE_PARTIALLY_SUCCEEDED
    assert [slide.slide_id async for slide in client.results(batch.name, "state=FAILED")] == ["S-00001"]
    again = await client.retry_batch(batch.name)
    assert again.retry_round == 1
    waiting = asyncio.create_task(client.wait_for_batch(batch.name))
    await stack.worker.drain()
    assert (await asyncio.wait_for(waiting, HANGS_S)).state == SlideBatch.STATE_SUCCEEDED


async def test_a_batch_is_cancelled_once(client: GramserveClient) -> None:
    batch = await client.create_batch(slides(3), model="models/gram")
    await client.cancel_batch(batch.name)
    assert (await client.wait_for_batch(batch.name)).completion_stats.cancelled_count == 3
    with pytest.raises(PreconditionFailed) as caught:
        await client.cancel_batch(batch.name)
    assert caught.value.reason is Reason.BATCH_TERMINAL


async def test_a_cancel_whose_answer_was_lost_is_repeated_and_answered(stack: Stack, tmp_path: Path) -> None:
    assert stack.app is not None
    async with (
        fault_proxy(f"127.0.0.1:{stack.app.port}", tmp_path / "near") as line,
        GramserveClient(line.url, laboratory="north", patience=Patience(total_s=20.0, first_wait_s=0.01)) as client,
    ):
        batch = await client.create_batch(slides(3), model="models/gram")
        await stack.command("CLIENT", "PAUSE", "1000000", "WRITE")  # the cancel waits in the gateway
        cancelling = asyncio.create_task(client.cancel_batch(batch.name, etag=(await stack.get(batch.name)).etag))
        await until(lambda: stopped(stack, batch.name))
        line.cut()
        await stack.command("CLIENT", "UNPAUSE")
        await stack.ended(batch.name)
        line.heal()
        assert (await cancelling).state == SlideBatch.STATE_CANCELLED


async def stopped(stack: Stack, name: str) -> bool:
    return await stack.batches.get_stop("north", name.rpartition("/")[2], 0) is not None


async def test_known_bytes_are_sent_once(stack: Stack, client: GramserveClient, tmp_path: Path) -> None:
    path = tmp_path / "field.tif"
    path.write_bytes(b"II*\0" + bytes(3 << 20))
    digest = await client.upload_image(path)
    sent = stack.counted("upload_bytes")
    assert sent == path.stat().st_size
    assert await client.upload_image(path.read_bytes()) == digest
    assert stack.counted("upload_bytes") == sent
    slide = await client.upload_slide("S-1", [path, path], specimen_type="csf")
    assert [image.sha256 for image in slide.images] == [digest, digest]


async def test_models_are_listed_promoted_and_rolled_back(stack: Stack, client: GramserveClient) -> None:
    await stack.publish(promote=False)
    assert [model.name async for model in client.list_models()] == ["models/gram"]
    assert [version.name async for version in client.list_model_versions("models/gram")] == [
        "models/gram/versions/2",
        "models/gram/versions/1",
    ]
    promoted = await client.promote_model_version("models/gram/versions/2")
    assert [(alias.name, alias.version) for alias in promoted.aliases] == [("production", 2)]
    assert (await client.get_model_version("models/gram/versions/production")).name == "models/gram/versions/2"
    back = await client.rollback_model("models/gram")
    assert back.aliases[0].version == 1
    assert await client.get_model("models/gram") == back


async def test_what_is_wrong_is_said_by_class_and_reason(client: GramserveClient) -> None:
    with pytest.raises(NotFound) as missing:
        await client.get_batch("none-such")
    assert missing.value.reason is Reason.UNKNOWN_BATCH
    with pytest.raises(NotFound) as unknown:
        await client.create_batch(slides(1), model="models/other")
    assert unknown.value.reason is Reason.UNKNOWN_MODEL
    with pytest.raises(InvalidInput) as empty:
        await client.create_batch([], model="models/gram")
    assert empty.value.reason is Reason.NO_SLIDES
