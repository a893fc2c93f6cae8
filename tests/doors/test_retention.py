"""What is older than it may be goes, all of it; nothing else does, wherever a purge breaks off."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner

from gramserve.cli import app
from gramserve.errors import GramserveError, Reason
from gramserve.store.audit import AuditLog
from gramserve.store.audit_verify import read_audit, verify
from gramserve.store.batches import BatchStore
from gramserve.store.faults import unavailable
from gramserve.store.objects import LocalObjects, ObjectStore
from gramserve.store.purge import Purger
from gramserve.store.records import RoundRecord
from gramserve.store.retention import DAY_S, RetentionDays
from gramserve.store.uploads import Uploads
from gramserve.v1 import slide_batch_pb2 as b
from gramserve.v1 import slide_batch_service_pb2 as s
from tests.gateway.conftest import redis, stack
from tests.gateway.stack import LAB, Stack, new_request_id, refused, request
from tests.waiting import until

__all__ = ["redis", "stack"]
CANARY = "KOCH-ROBERT-1843-12-11"
MONTH = RetentionDays(batches=30)


def purger(stack: Stack, keep: RetentionDays = MONTH, objects: ObjectStore | None = None, **options: Any) -> Purger:
    objects = objects or stack.objects
    return Purger(objects, keep, AuditLog(objects, clock=stack.clock), clock=stack.clock, **options)


async def paths(objects: ObjectStore, prefix: str = "") -> list[str]:
    return [info.path async for info in objects.list(prefix)]


async def ended_batch(stack: Stack, **fields: Any) -> b.SlideBatch:
    batch = await stack.create(3, **fields)
    await stack.worker.drain(failing=[1])
    return await stack.ended(batch.name)


# Batches.


async def test_a_batch_that_was_purged_answers_BATCH_PURGED_to_every_call_and_is_not_listed(stack: Stack) -> None:
    again = request(3, request_id=new_request_id())
    old = await stack.api.CreateSlideBatch(again)
    await stack.run(old.name)
    stack.clock.ahead_s = 20 * DAY_S
    young = await ended_batch(stack)
    stack.clock.ahead_s = 31 * DAY_S
    assert (await purger(stack).purge())["batches"] == 1
    calls: list[Awaitable[Any]] = [
        stack.api.GetSlideBatch(s.GetSlideBatchRequest(name=old.name)),
        stack.api.ListSlides(s.ListSlidesRequest(parent=old.name)),
        stack.api.CancelSlideBatch(s.CancelSlideBatchRequest(name=old.name)),
        stack.api.RetrySlideBatch(s.RetrySlideBatchRequest(name=old.name)),
        stack.watch(old.name),
        stack.api.CreateSlideBatch(again),  # its request_id does not run again
        stack.api.CreateSlideBatch(request(3, batch_id=old.name.rpartition("/")[2])),
    ]
    for call in calls:
        code, error = await refused(call)
        assert (code, error.reason) == (grpc.StatusCode.NOT_FOUND, Reason.BATCH_PURGED)
    listed = await stack.api.ListSlideBatches(s.ListSlideBatchesRequest(parent=LAB))
    assert [batch.name for batch in listed.slide_batches] == [young.name]
    assert await stack.worker.lease(10) == []


async def test_nothing_is_left_of_a_purged_batch_but_a_tombstone_without_patient_data(stack: Stack) -> None:
    slide = b.SlideSource(slide_id=CANARY, images=[b.Image(uri=f"file:///scans/{CANARY}.png")])
    batch = await ended_batch(stack, slides=[slide], annotations={"patient": CANARY})
    stack.clock.ahead_s = 31 * DAY_S
    await purger(stack, actor="dr-koch").purge()
    assert await paths(stack.objects, "batches") == []
    assert await stack.objects.folders("batches/north") == []
    (path,) = await paths(stack.objects, "tombstones")
    tombstone = json.loads(await stack.objects.get(path))
    assert (tombstone["purged_by"], tombstone["slide_count"]) == ("dr-koch", 1)
    everything = b"".join([await stack.objects.get(path) for path in await paths(stack.objects)])
    assert CANARY.encode() not in everything
    (record,) = [record async for record in read_audit(stack.objects) if record.action == "batch.purge"]
    assert (record.actor, record.object, record.detail) == ("dr-koch", batch.name, {"slides": 1})


async def test_a_batch_that_has_not_ended_is_never_purged_however_old(stack: Stack) -> None:
    batch = await stack.create(2)
    stack.clock.ahead_s = 400 * DAY_S
    assert (await purger(stack).purge())["batches"] == 0
    assert (await stack.run(batch.name)).completion_stats.succeeded_count == 2


async def test_a_gateway_purges_by_itself_and_another_one_with_the_batch_in_memory_knows(
    stack: Stack, tmp_path: Path
) -> None:
    batch = await ended_batch(stack)
    other = Stack(tmp_path, stack.redis, retention_batches_days=30.0, retention_interval_s=0.02)
    other.clock.ahead_s = 31 * DAY_S
    await other.start()
    try:

        async def gone() -> bool:
            with suppress(grpc.aio.AioRpcError):
                await stack.get(batch.name)
                return False
            return True

        await until(gone)
        await until(lambda: other.counted("purged", kind="batches") == 1)
    finally:
        await other.stop()
    assert (await refused(stack.get(batch.name)))[1].reason is Reason.BATCH_PURGED


class BreaksOff(LocalObjects):
    """A folder on which the `step`-th write or delete is the last thing that happens; of a folder half is removed."""

    def __init__(self, root: str, step: int) -> None:
        super().__init__(root)
        self.left = step
        self.broke = False

    async def _write(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        if self.left == 0:
            self.broke = True
            raise unavailable()
        self.left -= 1
        return await super()._write(function, *args, **kwargs)

    async def delete_folder(self, prefix: str) -> None:
        if self.left == 0:
            found = await paths(LocalObjects(self._root), prefix)
            for path in found[: len(found) // 2]:
                (Path(self._root) / path).unlink()
        await super().delete_folder(prefix)


@pytest.mark.parametrize("step", range(8))
async def test_a_purge_that_breaks_off_anywhere_leaves_the_batch_whole_or_purged_and_is_finished_later(
    stack: Stack, step: int
) -> None:
    batch = await ended_batch(stack)
    before = await paths(stack.objects, "batches")
    stack.clock.ahead_s = 31 * DAY_S
    objects = BreaksOff(stack.store_url, step)
    with suppress(GramserveError):
        await purger(stack, objects=objects).purge()
    assert objects.broke == (step < 6)  # the last of the parameters are whole purges
    if await paths(stack.objects, "tombstones"):
        assert (await refused(stack.get(batch.name)))[1].reason is Reason.BATCH_PURGED
        listed = await stack.api.ListSlideBatches(s.ListSlideBatchesRequest(parent=LAB))
        assert list(listed.slide_batches) == []
    else:
        assert await paths(stack.objects, "batches") == before
        assert (await stack.get(batch.name)).completion_stats.succeeded_count == 2
    await purger(stack).purge()
    assert await paths(stack.objects, "batches") == []
    assert len(await paths(stack.objects, "tombstones")) == 1
    await verify(stack.objects)


async def test_I1_a_retry_that_is_accepted_while_the_batch_is_being_purged_keeps_it(stack: Stack) -> None:
    batch = await ended_batch(stack)
    stack.clock.ahead_s = 31 * DAY_S

    class RetriesInBetween(LocalObjects):
        async def create(self, path: str, data: bytes) -> bool:
            if path.startswith("tombstones/"):
                await stack.api.RetrySlideBatch(s.RetrySlideBatchRequest(name=batch.name))
            return await super().create(path, data)

    assert (await purger(stack, objects=RetriesInBetween(stack.store_url)).purge())["batches"] == 0
    assert (await stack.run(batch.name)).completion_stats.succeeded_count == 3


async def test_a_retry_that_comes_behind_the_tombstone_is_refused_or_keeps_the_batch(stack: Stack) -> None:
    batch = await ended_batch(stack)
    stack.clock.ahead_s = 31 * DAY_S

    class RetriesBehind(LocalObjects):
        async def create(self, path: str, data: bytes) -> bool:
            made = await super().create(path, data)
            if path.startswith("tombstones/"):
                code, error = await refused(stack.api.RetrySlideBatch(s.RetrySlideBatchRequest(name=batch.name)))
                assert (code, error.reason) == (grpc.StatusCode.NOT_FOUND, Reason.BATCH_PURGED)
            return made

    assert (await purger(stack, objects=RetriesBehind(stack.store_url)).purge())["batches"] == 1


async def test_a_retry_that_began_before_the_tombstone_leaves_nothing_of_a_batch_that_is_gone(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = await ended_batch(stack)
    stack.clock.ahead_s = 31 * DAY_S
    create_round = BatchStore.create_round

    async def after_the_purge(self: BatchStore, laboratory: str, name: str, record: RoundRecord) -> RoundRecord:
        assert (await purger(stack).purge())["batches"] == 1
        return await create_round(self, laboratory, name, record)

    monkeypatch.setattr(BatchStore, "create_round", after_the_purge)
    code, error = await refused(stack.api.RetrySlideBatch(s.RetrySlideBatchRequest(name=batch.name)))
    assert (code, error.reason) == (grpc.StatusCode.NOT_FOUND, Reason.BATCH_PURGED)
    assert await paths(stack.objects, "batches") == []
    assert await paths(stack.objects, "open") == []
    assert await stack.worker.lease(10) == []


async def test_a_purged_batch_stays_purged_whatever_is_written_into_its_folder_later(stack: Stack) -> None:
    batch = await ended_batch(stack)
    stack.clock.ahead_s = 31 * DAY_S
    await purger(stack).purge()
    folder = f"batches/north/{batch.name.rpartition('/')[2]}"
    await stack.objects.put(f"{folder}/rounds/1.json", b"{}")
    await stack.objects.put(f"{folder}/results/0/000000.json", b"{}")  # of a worker that slept
    await purger(stack).purge()
    assert await paths(stack.objects, "batches") == []
    assert len(await paths(stack.objects, "tombstones")) == 1


# Images.


async def upload(stack: Stack, data: bytes) -> str:
    import hashlib

    sha256 = hashlib.sha256(data).hexdigest()
    opened = await Uploads(stack.objects).open("north", sha256, f"slides/north/{sha256}")
    await opened.write(data)
    await opened.finish()
    return sha256


IMAGES = RetentionDays(batches=60, images=10)


async def test_an_image_goes_a_while_after_the_last_batch_that_refers_to_it_and_not_before(stack: Stack) -> None:
    sha256, free = await upload(stack, b"wanted"), await upload(stack, b"nobody's")
    slide = b.SlideSource(slide_id="1", images=[b.Image(sha256=sha256)])
    await ended_batch(stack, slides=[slide])
    stack.clock.ahead_s = 9 * DAY_S
    assert (await purger(stack, IMAGES).purge())["images"] == 0
    assert await paths(stack.objects, "condemned") == []
    stack.clock.ahead_s = 20 * DAY_S
    assert (await purger(stack, IMAGES).purge())["images"] == 0
    assert await paths(stack.objects, "condemned") == [f"condemned/slides/north/{free}"]
    assert (await purger(stack, IMAGES).purge())["images"] == 1
    assert await paths(stack.objects, "slides") == [f"slides/north/{sha256}"]
    stack.clock.ahead_s = 61 * DAY_S
    purged = [await purger(stack, IMAGES).purge() for _ in range(2)]
    assert [(one["batches"], one["images"]) for one in purged] == [(1, 0), (0, 1)]
    assert await paths(stack.objects, "slides") == []
    assert await paths(stack.objects, "condemned") == []


async def test_an_image_that_a_client_is_told_of_while_it_is_condemned_stays(stack: Stack) -> None:
    asked, sent, inline, left = [await upload(stack, data) for data in (b"asked", b"sent", b"inline", b"left")]
    stack.clock.ahead_s = 20 * DAY_S
    await purger(stack, IMAGES).purge()
    assert len(await paths(stack.objects, "condemned")) == 4
    assert (await Uploads(stack.objects).status("north", asked, f"slides/north/{asked}")).complete
    await upload(stack, b"sent")
    await stack.create(slides=[b.SlideSource(slide_id="1", images=[b.Image(content=b"inline")])])
    assert (await purger(stack, IMAGES).purge())["images"] == 1
    assert await paths(stack.objects, "slides") == sorted(f"slides/north/{one}" for one in (asked, sent, inline))
    assert left not in "".join(await paths(stack.objects, "slides"))


async def test_an_image_that_a_batch_refers_to_again_stays(stack: Stack) -> None:
    sha256 = await upload(stack, b"pixels")
    stack.clock.ahead_s = 20 * DAY_S
    await purger(stack, IMAGES).purge()
    await stack.create(slides=[b.SlideSource(slide_id="1", images=[b.Image(sha256=sha256)])])
    assert (await purger(stack, IMAGES).purge())["images"] == 0
    assert await paths(stack.objects, "slides") == [f"slides/north/{sha256}"]
    assert await paths(stack.objects, "condemned") == []


async def test_an_image_whose_deletion_broke_off_goes_soon_and_can_be_sent_again(stack: Stack) -> None:
    sha256 = await upload(stack, b"nobody's")
    image, mark = (Path(stack.store_url) / folder / "north" / sha256 for folder in ("slides", "condemned/slides"))

    def age(file: Path, days: float) -> None:
        os.utime(file, times=2 * (stack.clock() - days * DAY_S,))

    class Stuck(LocalObjects):
        """A folder in which no image can be deleted."""

        async def delete(self, path: str) -> None:
            raise unavailable()

    age(image, 20)
    await purger(stack, IMAGES).purge()
    age(mark, 2)
    with pytest.raises(GramserveError):
        await purger(stack, IMAGES, Stuck(stack.store_url)).purge()
    with pytest.raises(GramserveError):  # nobody is told that it is known
        await upload(stack, b"nobody's")
    assert (await purger(stack, IMAGES).purge())["images"] == 0  # whoever deletes it may only be slow
    stack.clock.ahead_s = 2 * 3600
    assert (await purger(stack, IMAGES).purge())["images"] == 1
    assert await upload(stack, b"nobody's") == sha256


# The rest.


async def test_parts_of_uploads_kept_calls_and_reports_go_by_their_own_days(stack: Stack) -> None:
    put = stack.objects.put
    await put("uploads/north/" + "a" * 64 + "/0000000000000000", b"part")
    await put("reuse/north/" + "b" * 64, b"{}")
    for name in ("optimization.json", "progress.json", "trials.json", "report.html", "stages/ingest/stage.json"):
        await put(f"optimizations/opt-1/{name}", b"{}")
        await put(f"optimizations/opt-2/{name}", b"{}")
    await put("optimizations/opt-1/outcome.json", json.dumps({"time": stack.clock()}).encode())
    keep = RetentionDays(uploads=7, reuse=30, optimizations=90)
    stack.clock.ahead_s = 6 * DAY_S
    assert not any((await purger(stack, keep).purge()).values())
    stack.clock.ahead_s = 8 * DAY_S
    assert (await purger(stack, keep).purge())["uploads"] == 1
    stack.clock.ahead_s = 31 * DAY_S
    assert (await purger(stack, keep).purge())["reuse"] == 1
    stack.clock.ahead_s = 91 * DAY_S
    assert (await purger(stack, keep).purge())["optimizations"] == 1
    # What a repeated request must find is kept, and so is all of what has not ended.
    assert await paths(stack.objects, "optimizations/opt-1") == [
        f"optimizations/opt-1/{name}" for name in ("optimization.json", "outcome.json")
    ]
    assert len(await paths(stack.objects, "optimizations/opt-2")) == 5
    assert not any((await purger(stack, keep).purge()).values())


async def test_a_dry_run_counts_what_would_go_and_changes_nothing(stack: Stack) -> None:
    await ended_batch(stack)
    await upload(stack, b"nobody's")
    await stack.objects.put("reuse/north/" + "b" * 64, b"{}")
    keep = RetentionDays(batches=1, images=1, uploads=1, reuse=1, optimizations=1, audit=1)
    stack.clock.ahead_s = 3 * DAY_S
    before = await paths(stack.objects)
    found = await purger(stack, keep, dry_run=True).purge()
    assert (found["batches"], found["reuse"]) == (1, 1)
    assert await paths(stack.objects) == before


async def test_by_default_only_unfinished_uploads_go(stack: Stack) -> None:
    await ended_batch(stack)
    await upload(stack, b"nobody's")
    await stack.objects.put("uploads/north/" + "a" * 64 + "/0000000000000000", b"part")
    stack.clock.ahead_s = 4000 * DAY_S
    found = await purger(stack, RetentionDays()).purge()
    assert {kind for kind, count in found.items() if count} == {"uploads"}


async def command(*words: str) -> str:
    done = await asyncio.to_thread(CliRunner().invoke, app, list(words))
    assert done.exit_code == 0, done.output
    return done.output


async def test_the_command_says_what_would_go_then_purges_and_is_audited(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "somebody-else")
    await ended_batch(stack)
    words = ("purge", "--store", stack.store_url, "--batches", "0.000000000001")
    assert "would be purged: batches 1," in await command(*words, "--dry-run")
    assert len(await paths(stack.objects, "batches")) > 0
    assert "purged: batches 1," in await command(*words)
    assert await paths(stack.objects, "batches") == []
    (record,) = [record async for record in read_audit(stack.objects) if record.action == "batch.purge"]
    assert record.actor.startswith("local:")
    assert "somebody-else" not in record.actor
