"""The files that are delivered."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from google.protobuf import json_format

from gateway.names import BatchName
from gateway.output import OutputWriter
from gramserve.errors import Unavailable
from gramserve.store.batches import BatchStore
from gramserve.store.faults import unavailable
from gramserve.store.objects import open_store
from gramserve.store.records import BatchRecord, Counts, Priority, SlideState
from gramserve.v1 import slide_batch_pb2 as b
from gramserve.v1 import slide_batch_service_pb2 as s
from gramserve.v1 import slide_pb2
from tests.gateway.stack import Stack

SLIDE = slide_pb2.Slide.State


def folder_of(batch: b.SlideBatch) -> Path:
    return Path(urlsplit(batch.output_info.output_directory_uri).path)


def rows_of(path: Path) -> list[slide_pb2.Slide]:
    return [json_format.Parse(line, slide_pb2.Slide()) for line in path.read_text().splitlines()]


def checked_manifest(batch: b.SlideBatch) -> dict[str, object]:
    """manifest.json, after every digest and count in it was checked."""
    data = (folder_of(batch) / "manifest.json").read_bytes()
    assert hashlib.sha256(data).hexdigest() == batch.output_info.manifest_digest
    manifest: dict[str, object] = json.loads(data)
    files: list[dict[str, object]] = manifest["files"]  # type: ignore[assignment]
    for file in files:
        content = (folder_of(batch) / str(file["name"])).read_bytes()
        assert hashlib.sha256(content).hexdigest() == file["sha256"]
        assert (len(content), content.count(b"\n")) == (file["bytes"], file["rows"])
    return manifest


async def test_every_slide_is_one_line_of_results_or_errors(stack: Stack) -> None:
    batch = await stack.create(300)
    ended = await stack.run(batch.name, failing=(7, 200), review=(5,))
    folder = folder_of(ended)
    manifest = checked_manifest(ended)

    assert {path.name for path in folder.iterdir()} == {"results-00001.jsonl", "errors-00001.jsonl", "manifest.json"}
    results, errors = rows_of(folder / "results-00001.jsonl"), rows_of(folder / "errors-00001.jsonl")
    assert [slide.index for slide in results] == [index for index in range(300) if index not in {7, 200}]
    assert [slide.index for slide in errors] == [7, 200]
    listed = (await stack.api.ListSlides(s.ListSlidesRequest(parent=batch.name, page_size=1000))).slides
    assert sorted([*results, *errors], key=lambda slide: slide.index) == list(listed)
    assert manifest["counts"] == {
        "total": 300,
        "succeeded": 298,
        "failed": 2,
        "cancelled": 0,
        "expired": 0,
        "review": 1,
    }
    assert manifest["batch"] == batch.name
    assert (manifest["model_version"], manifest["model_digest"]) == (batch.model_version, batch.model_digest)


async def test_slides_that_never_ran_are_among_the_errors(stack: Stack) -> None:
    batch = await stack.create(4)
    leases = await stack.worker.lease(1)
    await stack.api.CancelSlideBatch(s.CancelSlideBatchRequest(name=batch.name))
    await stack.worker.finish(leases[0])
    ended = await stack.ended(batch.name)
    checked_manifest(ended)
    errors = rows_of(folder_of(ended) / "errors-00001.jsonl")
    assert [slide.state for slide in errors] == [SLIDE.STATE_CANCELLED] * 3


async def test_each_round_has_its_own_complete_files(stack: Stack) -> None:
    batch = await stack.create(3)
    first = await stack.run(batch.name, failing=(1,))
    await stack.api.RetrySlideBatch(s.RetrySlideBatchRequest(name=batch.name))
    second = await stack.run(batch.name)
    assert folder_of(first) != folder_of(second)
    assert len(rows_of(folder_of(first) / "errors-00001.jsonl")) == 1
    assert len(rows_of(folder_of(second) / "results-00001.jsonl")) == 3
    assert (folder_of(second) / "errors-00001.jsonl").read_bytes() == b""
    checked_manifest(first)
    checked_manifest(second)


RECORD = BatchRecord(
    laboratory="north",
    batch="night-1",
    request_id="",
    fingerprint="",
    model="models/gram",
    model_version="models/gram/versions/1",
    model_digest="d",
    slide_count=8,
    priority=Priority.ROUTINE,
    deliver_by=None,
    max_failed_ratio=0.0,
    create_time=0.0,
    annotations={},
)


async def test_files_are_split_and_the_same_slides_give_the_same_bytes(tmp_path: Path) -> None:
    batches, name = BatchStore(open_store(str(tmp_path))), BatchName("north", "night-1")
    digests = set()
    for _ in range(2):
        writer = OutputWriter(batches, name, 0, file_rows=3)
        for index in range(8):
            await writer.add(SlideState.FAILED if index == 4 else SlideState.SUCCEEDED, b"%d" % index)
        digests.add(await writer.finish(RECORD, Counts(8, succeeded=7, failed=1)))
    assert len(digests) == 1
    folder = tmp_path / "batches/north/night-1/output/0"
    assert {path.name: path.read_text() for path in folder.glob("*.jsonl")} == {
        "results-00001.jsonl": "0\n1\n2\n",
        "results-00002.jsonl": "3\n5\n6\n",
        "results-00003.jsonl": "7\n",
        "errors-00001.jsonl": "4\n",
    }


async def test_a_file_that_cannot_be_written_is_told_when_no_other_is_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches, name = BatchStore(open_store(str(tmp_path))), BatchName("north", "night-1")
    written = []

    async def put(path: str, _data: bytes) -> None:
        if path.endswith("errors-00001.jsonl"):
            raise unavailable()
        await asyncio.sleep(0.02)
        written.append(path.rpartition("/")[2])

    monkeypatch.setattr(batches.objects, "put", put)
    with pytest.raises(Unavailable):
        await OutputWriter(batches, name, 0).finish(RECORD, Counts(8))
    assert written == ["results-00001.jsonl", "manifest.json"]


async def test_files_of_a_gateway_that_died_before_the_end_are_written_again(stack: Stack) -> None:
    batch = await stack.create(2)
    await stack.stop_gateway()
    await stack.worker.drain()
    key = batch.name.rpartition("/")[2]
    half = stack.batches.output_path("north", key, 0, "results-00001.jsonl")
    await stack.objects.put(half, b"half a li")
    await stack.start()
    checked_manifest(await stack.ended(batch.name))
