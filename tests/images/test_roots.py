"""Folders of one laboratory each: what lies in another's is denied whether or not it is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from gramserve.errors import InvalidInput, Reason, SlideFailed
from gramserve.images.open import ReferenceOpener
from gramserve.store.objects import open_store
from gramserve.store.records import ImageRecord

DATA = b"pixels"


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    for laboratory in ("north", "south"):
        folder = tmp_path / "scans" / laboratory / "inbox"
        folder.mkdir(parents=True)
        (folder / f"{laboratory}.png").write_bytes(DATA)
    return tmp_path / "scans"


@pytest.fixture
def opener(tmp_path: Path, scans: Path) -> ReferenceOpener:
    roots = [scans / "{laboratory}" / "inbox"]
    return ReferenceOpener(open_store(str(tmp_path / "store")), allowed_roots=roots, max_bytes=1000)


def why_not(opener: ReferenceOpener, laboratory: str, path: Path | str) -> tuple[Reason, str]:
    with pytest.raises(SlideFailed) as failed:
        opener.fetch(laboratory, ImageRecord(uri=str(path)))
    return failed.value.reason, failed.value.message


def test_a_laboratory_reads_its_own_folder(opener: ReferenceOpener, scans: Path) -> None:
    for laboratory in ("north", "south"):
        path = scans / laboratory / "inbox" / f"{laboratory}.png"
        assert opener.fetch(laboratory, ImageRecord(uri=str(path))) == DATA
        assert opener.read_manifest(str(path), max_bytes=100, laboratory=laboratory) == DATA


def test_what_another_laboratory_has_is_denied_like_what_nobody_has(opener: ReferenceOpener, scans: Path) -> None:
    there, missing = scans / "north" / "inbox" / "north.png", scans / "north" / "inbox" / "none.png"
    assert why_not(opener, "south", there) == why_not(opener, "south", missing)
    assert why_not(opener, "south", there)[0] is Reason.REFERENCE_DENIED
    with pytest.raises(InvalidInput) as refused:
        opener.read_manifest(str(there), max_bytes=100, laboratory="south")
    assert refused.value.reason is Reason.REFERENCE_DENIED


def test_a_link_into_the_folder_of_another_laboratory_is_denied(opener: ReferenceOpener, scans: Path) -> None:
    link = scans / "south" / "inbox" / "link.png"
    link.symlink_to(scans / "north" / "inbox" / "north.png")
    assert why_not(opener, "south", link)[0] is Reason.REFERENCE_DENIED


def test_a_folder_that_is_a_link_itself_is_read(opener: ReferenceOpener, scans: Path, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "east.png").write_bytes(DATA)
    (scans / "east").mkdir()
    (scans / "east" / "inbox").symlink_to(volume)
    assert opener.fetch("east", ImageRecord(uri=str(scans / "east" / "inbox" / "east.png"))) == DATA


@pytest.mark.parametrize("laboratory", ["", "..", ".", "north/inbox/..", "{laboratory}", "*"])
def test_what_is_no_laboratory_has_no_folder(opener: ReferenceOpener, scans: Path, laboratory: str) -> None:
    assert why_not(opener, laboratory, scans / "north" / "inbox" / "north.png")[0] is Reason.REFERENCE_DENIED
