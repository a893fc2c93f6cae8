"""The archive of a data folder."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from gramserve.client.archive import zip_folder
from gramserve.errors import InvalidInput, Reason


def test_the_same_content_gives_the_same_archive(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "train" / "GNR").mkdir(parents=True)
        (tmp_path / name / "train" / "GNR" / "1.png").write_bytes(b"pixels")
        (tmp_path / name / "groups.csv").write_text("path,group\n")
        (tmp_path / name / ".hidden").write_text("not for upload")
    os.utime(tmp_path / "b" / "groups.csv", (1, 1))
    assert zip_folder(tmp_path / "a", tmp_path / "a.zip") == 2
    assert zip_folder(tmp_path / "b", tmp_path / "b.zip") == 2
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == ["groups.csv", "train/GNR/1.png"]


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        zip_folder(tmp_path, tmp_path / "x.zip")
    assert caught.value.reason is Reason.INVALID_DATASET
