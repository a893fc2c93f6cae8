"""The only opener of references: what it reads, and everything it refuses."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gramserve.errors import GramserveError, InvalidInput, NotFound, Reason, SlideFailed
from gramserve.images.open import ReferenceOpener
from gramserve.store.objects import open_store
from gramserve.store.records import ImageRecord
from tests.handles import open_below

DATA = b"pixels"
SHA = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "scanner"
    (folder / "day 1").mkdir(parents=True)
    (folder / "field.jpg").write_bytes(DATA)
    (folder / "day 1" / "ä field.jpg").write_bytes(DATA)
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    return folder


@pytest.fixture
def opener(tmp_path: Path, root: Path) -> ReferenceOpener:
    return ReferenceOpener(open_store(str(tmp_path / "store")), allowed_roots=[root], max_bytes=1000)


def refused(read: Callable[[], bytes]) -> SlideFailed:
    with pytest.raises(SlideFailed) as failed:
        read()
    return failed.value


async def test_an_uploaded_image_is_read_by_its_digest(tmp_path):
    store = open_store(str(tmp_path))
    await store.put(f"slides/lab/{SHA}", DATA)
    assert ReferenceOpener(store, max_bytes=1000).fetch("lab", ImageRecord(sha256=SHA)) == DATA


async def test_knowing_a_digest_is_no_right_to_read_another_laboratorys_image(tmp_path):
    store = open_store(str(tmp_path))
    await store.put(f"slides/lab/{SHA}", DATA)
    opener = ReferenceOpener(store, max_bytes=1000)
    assert refused(lambda: opener.fetch("other", ImageRecord(sha256=SHA))).reason is Reason.REFERENCE_NOT_FOUND


async def test_stored_bytes_that_changed_are_not_classified(tmp_path):
    store = open_store(str(tmp_path))
    await store.put(f"slides/lab/{SHA}", b"altered")
    opener = ReferenceOpener(store, max_bytes=1000)
    assert refused(lambda: opener.fetch("lab", ImageRecord(sha256=SHA))).reason is Reason.CHECKSUM_MISMATCH


async def test_a_stored_image_over_the_limit_is_too_large(tmp_path):
    store = open_store(str(tmp_path))
    await store.put(f"slides/lab/{SHA}", DATA)
    opener = ReferenceOpener(store, max_bytes=5)
    assert refused(lambda: opener.fetch("lab", ImageRecord(sha256=SHA))).reason is Reason.IMAGE_TOO_LARGE


@pytest.mark.parametrize("digest", ["../../etc/passwd", "A" * 64, "0" * 63, "0" * 64 + "/x"])
def test_what_is_no_digest_is_denied(opener, digest):
    assert refused(lambda: opener.fetch("lab", ImageRecord(sha256=digest))).reason is Reason.REFERENCE_DENIED


@pytest.mark.parametrize("laboratory", ["", "..", "a/b", ".hidden"])
def test_what_is_no_laboratory_is_denied(opener, laboratory):
    assert refused(lambda: opener.fetch(laboratory, ImageRecord(sha256=SHA))).reason is Reason.REFERENCE_DENIED


def test_files_under_an_allowed_root_are_read_by_path_and_by_uri(opener, root):
    for uri in (f"{root}/field.jpg", f"file://{root}/field.jpg", f"file://localhost{root}/day%201/%C3%A4%20field.jpg"):
        assert opener.fetch("lab", ImageRecord(uri=uri)) == DATA


def test_nothing_is_allowed_by_default(tmp_path, root):
    opener = ReferenceOpener(open_store(str(tmp_path / "store")), max_bytes=1000)
    assert refused(lambda: opener.fetch("lab", ImageRecord(uri=f"{root}/field.jpg"))).reason is Reason.REFERENCE_DENIED


def test_roots_must_be_absolute(tmp_path):
    with pytest.raises(ValueError, match="absolute"):
        ReferenceOpener(open_store(str(tmp_path)), allowed_roots=[Path("scans")], max_bytes=1)


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "field.jpg",
        "{root}/../secret.jpg",
        "file://{root}/%2e%2e/secret.jpg",
        "{root}/day 1/../field.jpg",
        "file:///etc/passwd",
        "/etc/passwd",
        "/etc/there-is-no-such-file",
        "{root}-other/field.jpg",
        "http://example.org/field.jpg",
        "https://example.org/field.jpg",
        "s3://bucket/field.jpg",
        "store://slides/lab/field.jpg",
        "file://elsewhere{root}/field.jpg",
        "file://{root}/field.jpg?x=1",
        "file:field.jpg",
        "file://[{root}/field.jpg",
        "FILE://{root}/field.jpg",
        "{root}/field.jpg\0.png",
        "//etc/passwd",
    ],
)
def test_references_outside_the_roots_are_denied(opener, root, uri):
    failed = refused(lambda: opener.fetch("lab", ImageRecord(uri=uri.format(root=root))))
    assert failed.reason is Reason.REFERENCE_DENIED
    assert not failed.retryable


def test_a_link_that_leads_out_of_the_root_is_denied(opener, root, tmp_path):
    (root / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (root / "up").symlink_to(tmp_path)
    for name in ("link.jpg", "up/secret.jpg"):
        assert (
            refused(lambda name=name: opener.fetch("lab", ImageRecord(uri=f"{root}/{name}"))).reason
            is Reason.REFERENCE_DENIED
        )


def test_a_link_that_stays_inside_the_root_is_followed(opener, root):
    (root / "link.jpg").symlink_to(root / "field.jpg")
    assert opener.fetch("lab", ImageRecord(uri=f"{root}/link.jpg")) == DATA


def test_a_root_that_is_itself_a_link_is_a_root(tmp_path, root):
    (tmp_path / "volume").symlink_to(root)
    opener = ReferenceOpener(open_store(str(tmp_path / "store")), allowed_roots=[tmp_path / "volume"], max_bytes=1000)
    assert opener.fetch("lab", ImageRecord(uri=f"{tmp_path}/volume/field.jpg")) == DATA


def test_a_link_to_itself_is_denied(opener, root):
    (root / "loop").symlink_to(root / "loop")
    assert refused(lambda: opener.fetch("lab", ImageRecord(uri=f"{root}/loop"))).reason is Reason.REFERENCE_DENIED


def test_directories_and_pipes_are_denied_without_waiting_for_a_writer(opener, root):
    os.mkfifo(root / "pipe")
    for name in ("day 1", "pipe", ""):
        assert (
            refused(lambda name=name: opener.fetch("lab", ImageRecord(uri=f"{root}/{name}"))).reason
            is Reason.REFERENCE_DENIED
        )


def test_devices_are_denied_even_under_a_root(tmp_path):
    opener = ReferenceOpener(open_store(str(tmp_path)), allowed_roots=[Path("/dev")], max_bytes=1000)
    assert refused(lambda: opener.fetch("lab", ImageRecord(uri="/dev/zero"))).reason is Reason.REFERENCE_DENIED


def test_a_missing_file_is_not_found(opener, root):
    for name in ("none.jpg", "field.jpg/none", "none/none"):
        failed = refused(lambda name=name: opener.fetch("lab", ImageRecord(uri=f"{root}/{name}")))
        assert failed.reason is Reason.REFERENCE_NOT_FOUND


def test_a_file_over_the_limit_is_too_large(opener, root):
    (root / "big.jpg").write_bytes(bytes(1001))
    assert refused(lambda: opener.fetch("lab", ImageRecord(uri=f"{root}/big.jpg"))).reason is Reason.IMAGE_TOO_LARGE


def test_a_file_that_pretends_to_have_no_size_is_read_no_further_than_the_limit():
    class Nothing:
        def get_sync(self, path: str) -> bytes:
            raise AssertionError(path)

    opener = ReferenceOpener(Nothing(), allowed_roots=[Path("/proc")], max_bytes=3)
    assert refused(lambda: opener.fetch("lab", ImageRecord(uri="/proc/version"))).reason is Reason.IMAGE_TOO_LARGE


def test_a_wrong_checksum_is_a_mismatch(opener, root):
    wrong = ImageRecord(uri=f"{root}/field.jpg", content_sha256="0" * 64)
    assert refused(lambda: opener.fetch("lab", wrong)).reason is Reason.CHECKSUM_MISMATCH
    assert opener.fetch("lab", ImageRecord(uri=f"{root}/field.jpg", content_sha256=SHA)) == DATA


async def test_a_digest_and_another_checksum_are_a_mismatch(tmp_path):
    store = open_store(str(tmp_path))
    await store.put(f"slides/lab/{SHA}", DATA)
    opener = ReferenceOpener(store, max_bytes=1000)
    wrong = ImageRecord(sha256=SHA, content_sha256="0" * 64)
    assert refused(lambda: opener.fetch("lab", wrong)).reason is Reason.CHECKSUM_MISMATCH


def test_no_error_repeats_the_reference_or_a_path(opener, root, tmp_path):
    (root / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    for uri in (f"{root}/link.jpg", f"{root}/none.jpg", "/etc/passwd", "s3://bucket/smith-jane.jpg", f"{root}/day 1"):
        failed = refused(lambda uri=uri: opener.fetch("lab", ImageRecord(uri=uri)))
        said = f"{failed.message} {failed.metadata}"
        assert not any(part in said for part in uri.split("/") if part)
        assert str(tmp_path) not in said


def test_open_files_are_closed(opener, root):
    for _ in range(20):
        opener.fetch("lab", ImageRecord(uri=f"{root}/field.jpg"))
        refused(lambda: opener.fetch("lab", ImageRecord(uri=f"{root}/day 1")))
    assert open_below(root) == []


class TestManifests:
    """Batch manifest files, under the same roots."""

    def test_a_manifest_is_read(self, opener, root):
        assert opener.read_manifest(f"file://{root}/field.jpg", max_bytes=100) == DATA

    @pytest.mark.parametrize(
        ("name", "kind", "reason"),
        [
            ("../secret.jpg", InvalidInput, Reason.REFERENCE_DENIED),
            ("none.jsonl", NotFound, Reason.REFERENCE_NOT_FOUND),
            ("field.jpg", InvalidInput, Reason.MESSAGE_TOO_LARGE),
        ],
    )
    def test_a_manifest_that_cannot_be_read_fails_the_request(self, opener, root, name, kind, reason):
        with pytest.raises(GramserveError) as failed:
            opener.read_manifest(f"{root}/{name}", max_bytes=5)
        assert type(failed.value) is kind
        assert failed.value.reason is reason
