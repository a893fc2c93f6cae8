"""Files that people and services write: manifests, records, frames between processes, labels, archives."""

from __future__ import annotations

import asyncio
import io
import shutil
import socket
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gateway.manifest_file import ManifestFiles
from gramserve.errors import GramserveError, InvalidInput
from gramserve.images.open import ReferenceOpener
from gramserve.store import records
from gramserve.store.codec import Record, RecordCorrupt
from gramserve.store.manifest import ArtifactManifest
from gramserve.store.objects import open_store
from inference_svc import protocol
from inference_svc.protocol import BrokenProtocol
from inference_svc.wire import Wire
from optimizer_svc.archive import extract_archive
from optimizer_svc.labels import parse_labels
from tests.artifacts import tiny_artifact
from tests.fuzz.target import Run, Target

RECORDS: tuple[type[Record], ...] = (
    records.SlideRecord,
    records.BatchRecord,
    records.RequestRecord,
    records.OutcomeRecord,
    records.StopRecord,
    records.RoundRecord,
    records.FinalRecord,
    records.AliasRecord,
)
LINE = b'{"slideId": "A-1", "images": [{"sha256": "%s"}, {"uri": "file:///scans/1.jpg"}], "specimenType": "BLOOD"}' % (
    b"0" * 64
)
LABELS = b"""labels:
  - {name: BACKGROUND, kind: background}
  - {name: GNR, kind: organism, gram: negative, morphology: bacilli}
  - {name: GPC_CLUSTERS, kind: organism, gram: positive, morphology: cocci, arrangement: clusters}
"""
YAML = (
    b"labels: [{name: !!int '', kind: organism}, {name: !!float '.'}]",
    b"labels: [{name: !!timestamp x}, {name: !!bool maybe}]",
    b"a: &a [1]\nb: &b [*a, *a]\nlabels: [*b, *b, {<<: {name: x}}]",
    b"labels: [2026-13-45, 0x, 1e9, .nan, 1:2:3, !!binary x, !!set {a}, !!omap [a: b]]",
)


@contextmanager
def artifact_manifests() -> Iterator[Run]:
    def run(data: bytes) -> None:
        with suppress(GramserveError):
            ArtifactManifest.from_json(data).to_json()

    yield run


@contextmanager
def slide_manifests() -> Iterator[Run]:
    """The file behind a manifest_uri."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder, asyncio.Runner() as runner:
        path = Path(folder) / "slides.jsonl"
        opener = ReferenceOpener(
            open_store(str(Path(folder) / "store")), allowed_roots=[Path(folder)], max_bytes=1 << 20
        )
        files = ManifestFiles(opener, max_slides=1000, max_bytes=1 << 20)

        def run(data: bytes) -> None:
            path.write_bytes(data)
            with suppress(GramserveError):
                checker = runner.run(files.read(str(path)))
                checker.check()
                for slide in checker.slides:
                    assert records.SlideRecord.from_json(slide.to_json()) == slide

        yield run


@contextmanager
def stored_records() -> Iterator[Run]:
    def run(data: bytes) -> None:
        kind = RECORDS[data[0] % len(RECORDS)] if data else RECORDS[0]
        with suppress(RecordCorrupt):
            found = kind.from_json(data[1:])
            assert kind.from_json(found.to_json()) == found

    yield run


@contextmanager
def frames() -> Iterator[Run]:
    """What a child, perhaps one that a picture took over, sends its worker, and what a worker sends a child."""

    def run(data: bytes) -> None:
        parser, piece = protocol.Parser(), 1 + len(data) % 13  # as it comes: in pieces of any size
        with suppress(BrokenProtocol, RecordCorrupt):
            for start in range(0, len(data), piece):
                for _message in parser.feed(data[start : start + piece]):
                    pass
        near, far = socket.socketpair()
        with near, far:
            far.sendall(data[:65_536])
            far.shutdown(socket.SHUT_WR)
            with suppress(BrokenProtocol, RecordCorrupt):
                wire = Wire(near)
                while wire.receive() is not None:
                    pass

    yield run


@contextmanager
def labels() -> Iterator[Run]:
    def run(data: bytes) -> None:
        with suppress(InvalidInput):
            parse_labels(data.decode(errors="replace"))

    yield run


@contextmanager
def archives() -> Iterator[Run]:
    """An uploaded archive of data."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        archive, into = Path(folder) / "archive", Path(folder) / "into"

        def run(data: bytes) -> None:
            archive.write_bytes(data)
            with suppress(InvalidInput):
                extract_archive(archive, into, max_bytes=1 << 22, max_files=100)
            outside = {path.name for path in Path(folder).iterdir()} - {"archive", "into"}
            assert not outside, "a member left the folder"
            shutil.rmtree(into, ignore_errors=True)

        yield run


def _records() -> list[bytes]:
    image = records.ImageRecord(sha256="0" * 64)
    slide = records.SlideRecord(0, "A-1", (image, records.ImageRecord(uri="/x")), "BLOOD")
    batch = records.BatchRecord(
        *("lab", "b-1", "r", "f", "models/m", "models/m/versions/1", "0" * 64),
        *(1, records.Priority.STAT, 1.5, 0.1, {"a": "b"}, 1.0),
    )
    outcome = records.OutcomeRecord(
        0, 0, records.SlideState.FAILED, {"outcome": "UNASSESSABLE"}, records.ErrorRecord("CORRUPT_IMAGE", "x")
    )
    final = records.FinalRecord(0, records.BatchState.SUCCEEDED, records.Counts(1, succeeded=1), "S")
    stop = records.StopRecord("CANCELLED", 1.0)
    again = records.RoundRecord(1, "r", (0, 1), 1.0)
    found = [slide, batch, records.RequestRecord("b-1", "f"), outcome, stop, again, final, records.AliasRecord(1)]
    return [bytes([RECORDS.index(type(one))]) + one.to_json() for one in found]


def _frames() -> list[bytes]:
    slide = protocol.RunSlide(1, "lab", (records.ImageRecord(sha256="0" * 64),), "models/m/versions/1", "0" * 64)
    done = protocol.Finished(1, {"outcome": "UNASSESSABLE"}, 3, 0.1, {"infer": 0.1}, "onnxruntime", "0" * 64)
    part = protocol.Part(1, 3, 0.1, b"readings")
    failed = protocol.Failed(1, "CORRUPT_IMAGE", "x", False)
    chosen = protocol.EngineChosen("models/m/versions/1", "openvino", {"openvino": 0.1}, {})
    told = protocol.VersionLoaded(
        "models/m/versions/1", "openvino", {"fetch": 0.1}, ("A",), (), {"A": 1.0}, {"0.9": 1.0}
    )
    found = [slide, protocol.Ready(), protocol.Started(1), done, part, failed, protocol.Models(("a",), 1), chosen, told]
    return [*(protocol.pack(one) for one in found), b"".join(protocol.pack(one) for one in found)]


def _archives() -> list[bytes]:
    found = []
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", compression) as archive:
            archive.writestr("data/train/GNR/1.png", b"x" * 100)
            archive.writestr("data/groups.csv", b"path,group\n")
        found.append(file.getvalue())
    return found


ARTIFACTS = Target(artifact_manifests, lambda: [tiny_artifact()[1].to_json()])
MANIFESTS = Target(slide_manifests, lambda: [LINE, LINE + b"\n" + LINE])
STORED = Target(stored_records, _records)
FRAMES = Target(frames, _frames)
YAMLS = Target(labels, lambda: [LABELS, *YAML], 16_384)
ZIPS = Target(archives, _archives, 16_384)
