"""Which files make which slides."""

from __future__ import annotations

from pathlib import Path

import pytest

from gramserve.cli.slides import find_slides
from gramserve.errors import InvalidInput, Reason


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def found(*paths: Path) -> dict[str, list[str]]:
    return {slide.slide_id: [field.name for field in slide.fields] for slide in find_slides(paths)}


def test_a_file_is_a_slide_of_one_field(tmp_path: Path) -> None:
    touch(tmp_path / "a.png", tmp_path / "b.JPG")
    assert found(tmp_path / "b.JPG", tmp_path / "a.png") == {"b": ["b.JPG"], "a": ["a.png"]}


def test_a_folder_is_a_slide_whose_images_are_its_fields(tmp_path: Path) -> None:
    touch(
        tmp_path / "s7" / "2.tif", tmp_path / "s7" / "1.jpeg", tmp_path / "s7" / "notes.txt", tmp_path / "s7" / ".x.png"
    )
    assert found(tmp_path / "s7") == {"s7": ["1.jpeg", "2.tif"]}


def test_a_folder_of_folders_holds_a_slide_in_each(tmp_path: Path) -> None:
    touch(tmp_path / "night" / "s2" / "1.png", tmp_path / "night" / "s1" / "1.png", tmp_path / "night" / "s1" / "2.png")
    assert found(tmp_path / "night") == {"s1": ["1.png", "2.png"], "s2": ["1.png"]}


def test_several_whole_slides_in_a_folder_never_become_one_slide(tmp_path: Path) -> None:
    touch(tmp_path / "night" / "anna.svs", tmp_path / "night" / "bert.SVS", tmp_path / "one" / "anna.ndpi")
    with pytest.raises(InvalidInput, match="name the files") as caught:
        find_slides([tmp_path / "night"])
    assert caught.value.reason is Reason.INVALID_FIELD
    assert found(*sorted((tmp_path / "night").iterdir())) == {"anna": ["anna.svs"], "bert": ["bert.SVS"]}
    assert found(tmp_path / "one") == {"one": ["anna.ndpi"]}


def test_the_files_of_a_DICOM_slide_are_one_slide(tmp_path: Path) -> None:
    touch(tmp_path / "s1" / "level0.dcm", tmp_path / "s1" / "level1.dcm")
    assert found(tmp_path / "s1") == {"s1": ["level0.dcm", "level1.dcm"]}


def test_as_many_parents_as_it_takes_tell_slides_apart(tmp_path: Path) -> None:
    touch(tmp_path / "mon" / "x" / "1.png", tmp_path / "tue" / "x" / "1.png")
    assert list(found(tmp_path / "mon" / "x", tmp_path / "tue" / "x")) == ["mon/x", "tue/x"]


def test_suffixes_tell_apart_what_nothing_else_does(tmp_path: Path) -> None:
    touch(tmp_path / "1.png", tmp_path / "1.jpg")
    assert list(found(tmp_path / "1.png", tmp_path / "1.jpg")) == ["1.png", "1.jpg"]


def test_a_named_file_is_taken_whatever_it_is_called(tmp_path: Path) -> None:
    touch(tmp_path / "report.txt")
    assert found(tmp_path / "report.txt") == {"report": ["report.txt"]}


def test_what_is_no_slide_is_refused(tmp_path: Path) -> None:
    touch(tmp_path / "mixed" / "1.png", tmp_path / "mixed" / "inner" / "1.png", tmp_path / "text" / "a.txt")
    for path, reason in [
        (tmp_path / "missing.png", Reason.INVALID_FIELD),
        (tmp_path / "mixed", Reason.INVALID_FIELD),
        (tmp_path / "text", Reason.NO_SLIDES),
    ]:
        with pytest.raises(InvalidInput) as caught:
            find_slides([path])
        assert caught.value.reason is reason


def test_a_path_given_twice_is_refused(tmp_path: Path) -> None:
    touch(tmp_path / "1.png")
    with pytest.raises(InvalidInput) as caught:
        find_slides([tmp_path / "1.png", tmp_path / "1.png"])
    assert caught.value.reason is Reason.DUPLICATE_SLIDE_ID
