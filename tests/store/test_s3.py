"""A laboratory's data on S3, from its upload to the end of its retention, and what an operator hears of the storage."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gramserve.cli import app
from gramserve.store.audit import AuditLog
from gramserve.store.audit_days import AuditDays
from gramserve.store.audit_verify import verify
from gramserve.store.purge import Purger
from gramserve.store.retention import DAY_S, RetentionDays
from gramserve.store.uploads import Uploads
from gramserve.v1 import slide_batch_pb2 as b
from gramserve.v1 import slide_batch_service_pb2 as s
from tests.gateway.stack import STATE, Stack
from tests.s3 import KEY, SECRET
from tests.services import redis_server

KEEP = RetentionDays(batches=30, images=30, uploads=1, reuse=30, audit=60)


@pytest.fixture
async def stack(tmp_path: Path, s3_url: str) -> AsyncIterator[Stack]:
    """A gateway with its store on S3."""
    async with redis_server(tmp_path / "redis") as redis:
        stack = Stack(tmp_path, redis, store_url=s3_url)
        await stack.publish()
        await stack.start()
        try:
            yield stack
        finally:
            await stack.stop()


async def upload(stack: Stack, data: bytes) -> b.Image:
    """An image that came in two pieces with a break between them."""
    sha256 = hashlib.sha256(data).hexdigest()
    for offset, piece in ((0, data[:10]), (10, data[10:])):
        uploads = Uploads(stack.objects, part_bytes=10)
        opened = await uploads.open("north", sha256, f"slides/north/{sha256}", offset=offset)
        await opened.write(piece, offset=offset)
    await opened.finish()
    return b.Image(sha256=sha256)


async def paths(stack: Stack, prefix: str = "") -> list[str]:
    return [info.path async for info in stack.objects.list(prefix)]


async def test_I1_I3_a_batch_on_S3_ends_is_retried_and_survives_the_loss_of_redis(stack: Stack) -> None:
    images = [await upload(stack, f"pixels of slide {n}".encode()) for n in range(4)]
    slides = [b.SlideSource(slide_id=f"s{n}", images=[image]) for n, image in enumerate(images)]
    batch = await stack.create(slides=slides)
    lease, *_ = await stack.worker.lease(1)
    assert await stack.worker.finish(lease)
    await stack.flush()
    async with stack.worker.working():
        ended = await stack.ended(batch.name)
    assert ended.completion_stats.succeeded_count == 4
    output = f"batches/north/{batch.name.rpartition('/')[2]}/output/0"
    assert await paths(stack, output) == [
        f"{output}/{name}" for name in ("errors-00001.jsonl", "manifest.json", "results-00001.jsonl")
    ]


async def test_what_is_older_than_it_may_be_goes_from_S3_and_the_audit_record_still_verifies(stack: Stack) -> None:
    image, free = await upload(stack, b"pixels of a slide"), await upload(stack, b"pixels of nobody")
    broken = hashlib.sha256(b"never finished").hexdigest()
    opened = await Uploads(stack.objects, part_bytes=4).open("north", broken, f"slides/north/{broken}")
    await opened.write(b"never fi")
    old = await stack.create(slides=[b.SlideSource(slide_id="old", images=[image])])
    await stack.worker.drain(failing=[0])
    assert (await stack.ended(old.name)).state == STATE.STATE_FAILED
    log = AuditLog(stack.objects, clock=stack.clock)
    anchor = (await verify(stack.objects)).head

    purged = []
    for day in (0, 31, 62, 93, 124):
        stack.clock.ahead_s = day * DAY_S
        await log.turn_day()
        purged.append(await Purger(stack.objects, KEEP, log, clock=stack.clock).purge())
    assert [one["batches"] for one in purged] == [0, 1, 0, 0, 0]
    assert [one["images"] for one in purged] == [0, 0, 2, 0, 0]
    assert purged[1]["uploads"] == 2
    assert sum(one["audit"] for one in purged) > 0
    kept = {path.partition("/")[0] for path in await paths(stack)}
    assert kept == {"format.json", "models", "audit", "tombstones"}
    assert len(await paths(stack, "tombstones")) == 1
    assert f"slides/north/{free.sha256}" not in await paths(stack)
    verified = await verify(stack.objects)
    assert verified.first > 1
    assert verified.head.number > anchor.number
    assert await AuditDays(stack.objects).sealed()


async def test_models_are_promoted_and_rolled_back_by_way_of_the_gateway(stack: Stack) -> None:
    second, _ = await stack.publish(promote=False)
    await stack.registry.promote("gram", second)
    assert (await stack.create(1)).model_version == f"models/gram/versions/{second}"
    await stack.registry.rollback("gram")
    assert (await stack.create(1)).model_version == "models/gram/versions/1"
    listed = await stack.api.ListSlideBatches(s.ListSlideBatchesRequest(parent="laboratories/north"))
    assert len(listed.slide_batches) == 2


def doctor(tmp_path: Path, url: str) -> tuple[int, str]:
    result = CliRunner().invoke(
        app, ["doctor", "--data-dir", str(tmp_path), "--store-url", url], env={"COLUMNS": "400"}
    )
    # A table in as many columns as the terminal has: words are broken into lines, and each column has its own.
    return result.exit_code, " ".join(result.output.split())


def test_the_doctor_finds_a_good_store_on_S3(tmp_path: Path, s3_url: str) -> None:
    _, said = doctor(tmp_path, s3_url)
    assert "can be written" in said


@pytest.mark.parametrize(
    ("variable", "value"), [("AWS_SECRET_ACCESS_KEY", "wrong-one"), ("AWS_ENDPOINT", "http://127.0.0.1:9")]
)
def test_the_doctor_finds_that_S3_cannot_be_used_and_shows_no_key(
    tmp_path: Path, s3_url: str, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    code, said = doctor(tmp_path, s3_url)
    assert code == 1
    assert "can be written" not in said
    assert not [word for word in (KEY, SECRET, "wrong-one") if word in said]


def test_the_doctor_finds_that_there_is_no_such_bucket(tmp_path: Path, s3_url: str) -> None:
    code, said = doctor(tmp_path, "s3://no-such-bucket/x")
    assert (code, "bucket" in said.replace("no-such-bucket", "")) == (1, True), said
