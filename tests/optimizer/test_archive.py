from __future__ import annotations

import stat
import struct
import zipfile
from pathlib import Path

import pytest

from gramserve.errors import InvalidInput, Reason
from optimizer_svc.archive import extract_archive


def pack(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def refused(archive: Path, into: Path, **limits: int) -> str:
    with pytest.raises(InvalidInput) as caught:
        extract_archive(archive, into, **limits)
    assert caught.value.reason == Reason.INVALID_DATASET
    return caught.value.message


@pytest.mark.parametrize("prefix", ["", "my data/"])
def test_the_data_folder_is_found_at_the_top_or_one_below(tmp_path: Path, prefix: str) -> None:
    archive = pack(tmp_path / "data.zip", {f"{prefix}train/A/1.png": b"x", f"{prefix}val/A/1.png": b"y"})
    folder = extract_archive(archive, tmp_path / "out")
    assert (folder / "train/A/1.png").read_bytes() == b"x"
    assert (folder / "val/A/1.png").read_bytes() == b"y"


def test_what_a_mac_adds_to_an_archive_does_no_harm(tmp_path: Path) -> None:
    archive = pack(tmp_path / "data.zip", {"tiles/train/A/1.png": b"x", "__MACOSX/tiles/._1.png": b"y"})
    assert extract_archive(archive, tmp_path / "out").name == "tiles"


@pytest.mark.parametrize(
    "name", ["../evil", "train/../../evil", "/etc/evil", "train\\..\\..\\evil", "C:/evil", "train/\n"]
)
def test_a_member_that_leaves_the_folder_is_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    archive = pack(tmp_path / "data.zip", {"train/A/1.png": b"x", name: b"evil"})
    assert "leaves the folder" in refused(archive, tmp_path / "deep" / "out")
    assert not list(tmp_path.rglob("*evil*"))
    assert not (tmp_path / "deep" / "out").exists()


def test_a_link_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "data.zip"
    with zipfile.ZipFile(archive, "w") as file:
        link = zipfile.ZipInfo("train/A/passwd")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(link, "/etc/passwd")
    assert "link" in refused(archive, tmp_path / "out")


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path: Path) -> None:
    archive = pack(tmp_path / "data.zip", {"train/A/1.png": b"x" * 5000, "train/A/2.png": b"y" * 5000})
    assert "more than 9999 bytes" in refused(archive, tmp_path / "out", max_bytes=9999)
    assert "more than 1 files" in refused(archive, tmp_path / "out", max_files=1)


def test_a_decompression_bomb_is_refused(tmp_path: Path) -> None:
    archive = pack(tmp_path / "data.zip", {"train/A/1.png": bytes(50_000_000)})
    assert "far more than its size" in refused(archive, tmp_path / "out")


def test_a_header_that_lies_about_the_size_is_caught_while_writing(tmp_path: Path) -> None:
    archive = pack(tmp_path / "data.zip", {"train/A/1.png": b"z" * 100_000})
    data = bytearray(archive.read_bytes())
    true_size = (100_000).to_bytes(4, "little")
    while true_size in data:
        at = data.index(true_size)
        data[at : at + 4] = (10).to_bytes(4, "little")
    archive.write_bytes(data)
    refused(archive, tmp_path / "out")


def test_the_same_member_twice_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "data.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("train/A/1.png", "x")
        with pytest.warns(UserWarning, match="Duplicate name"):
            file.writestr("train/A/1.png", "y")
    refused(archive, tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 half a zip"])
def test_a_file_that_is_no_zip_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data.zip").write_bytes(content)
    assert "not a readable zip" in refused(tmp_path / "data.zip", tmp_path / "out")


def test_an_archive_without_train_is_refused(tmp_path: Path) -> None:
    archive = pack(tmp_path / "data.zip", {"tiles/A/1.png": b"x"})
    assert "no train folder" in refused(archive, tmp_path / "out")


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_member_is_no_readable_zip_however_it_is_compressed(tmp_path: Path, compression: int) -> None:
    archive = tmp_path / "data.zip"
    with zipfile.ZipFile(archive, "w", compression) as file:
        file.writestr("train/A/1.png", b"x" * 100)
    data = bytearray(archive.read_bytes())
    data[56:66] = bytes(10)
    archive.write_bytes(data)
    assert "not a readable zip" in refused(archive, tmp_path / "out")


def test_a_directory_that_begins_before_the_file_is_no_readable_zip(tmp_path: Path) -> None:
    archive = pack(tmp_path / "data.zip", {"train/A/1.png": b"x"})
    data = bytearray(archive.read_bytes())
    at = data.rindex(b"PK\x05\x06") + 16
    data[at : at + 4] = (int.from_bytes(data[at : at + 4], "little") + 500).to_bytes(4, "little")
    archive.write_bytes(data)
    assert "not a readable zip" in refused(archive, tmp_path / "out")


def test_a_file_and_a_folder_of_one_name_are_no_readable_zip(tmp_path: Path) -> None:
    archive = pack(tmp_path / "data.zip", {"train/A": b"x", "train/A/1.png": b"x"})
    assert "not a readable zip" in refused(archive, tmp_path / "out")


def test_a_member_without_a_name_is_refused(tmp_path: Path) -> None:
    """No writer makes one: the one letter of a name becomes extra data in the archive's directory."""
    archive = pack(tmp_path / "data.zip", {"train/A/1.png": b"x", "n": b"y"})
    data = bytearray(archive.read_bytes())
    entry = data.rindex(b"PK\x01\x02")
    data[entry + 28 : entry + 32] = struct.pack("<HH", 0, 1)
    archive.write_bytes(data)
    assert "name" in refused(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()
