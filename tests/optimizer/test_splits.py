from __future__ import annotations

import csv
from pathlib import Path

import pytest

from gramserve.errors import InvalidInput, Reason
from gramserve.store.manifest import Label
from optimizer_svc.splits import Splits, class_folders, natural_key, read_splits

LABELS = (Label(name="A", kind="background"), Label(name="B", kind="organism"))


def fill(data: Path, split: str, per_class: int, start: int = 0) -> None:
    """Files that differ; the splitter reads bytes, not pictures."""
    for label in LABELS:
        folder = data / split / label.name
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(start, start + per_class):
            (folder / f"{i}.png").write_bytes(f"{split} {label.name} {i}".encode())


def group(data: Path, fields: dict[str, str]) -> None:
    with (data / "groups.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "group"), *fields.items()])


def group_by(data: Path, size: int) -> None:
    tiles = [p.relative_to(data) for p in data.rglob("*.png")]
    group(data, {p.as_posix(): f"{p.parent}-{int(p.stem) // size}" for p in tiles})


def refused(data: Path) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        read_splits(data, LABELS)
    return caught.value


def paths(splits: Splits) -> tuple[set[Path], set[Path]]:
    return {s.path for s in splits.train.samples}, {s.path for s in splits.val.samples}


def test_targets_follow_the_order_of_the_labels_not_of_the_folders(tmp_path: Path) -> None:
    fill(tmp_path, "train", 2)
    fill(tmp_path, "val", 2)
    splits = read_splits(tmp_path, LABELS[::-1])
    assert {(s.path.parent.name, s.target) for s in splits.train.samples} == {("B", 0), ("A", 1)}


def test_without_val_whole_groups_are_set_aside_and_always_the_same(tmp_path: Path) -> None:
    fill(tmp_path, "train", 40)
    group_by(tmp_path, 4)
    splits = read_splits(tmp_path, LABELS)
    train, val = ({s.group for s in split.samples} for split in (splits.train, splits.val))
    assert not train & val
    assert 12 <= len(splits.val.samples) <= 24
    assert set(splits.val.counts(LABELS).values()) == {8}
    assert paths(read_splits(tmp_path, LABELS)) == paths(splits)
    assert paths(read_splits(tmp_path, LABELS, seed=1)) != paths(splits)


def test_without_val_and_groups_neighbours_by_name_stay_together(tmp_path: Path) -> None:
    fill(tmp_path, "train", 20)
    splits = read_splits(tmp_path, LABELS)
    assert {int(s.path.stem) for s in splits.val.samples} == {16, 17, 18, 19}
    assert "no groups.csv" in splits.notes[0]


def test_a_class_with_a_single_group_cannot_be_split(tmp_path: Path) -> None:
    fill(tmp_path, "train", 4)
    group_by(tmp_path, 100)
    assert "too few groups" in refused(tmp_path).message


def test_a_group_in_two_splits_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, "train", 3)
    fill(tmp_path, "val", 3)
    tiles = [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.png")]
    group(tmp_path, {tile: "patient 1" if tile.endswith("B/0.png") else tile for tile in tiles})
    error = refused(tmp_path)
    assert error.reason == Reason.INVALID_DATASET
    assert "more than one split" in error.message
    assert "patient" not in error.message


def test_a_groups_file_that_forgets_a_tile_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, "train", 3)
    fill(tmp_path, "val", 3)
    group(tmp_path, {"train/A/0.png": "x"})
    assert "does not list every tile" in refused(tmp_path).message


@pytest.mark.parametrize("text", ["", "path;group\n", "path,group\n,x\n", "path,group\na,x\na,y\n", "path,group\na\n"])
def test_a_broken_groups_file_is_refused(tmp_path: Path, text: str) -> None:
    fill(tmp_path, "train", 3)
    (tmp_path / "groups.csv").write_text(text)
    assert refused(tmp_path).reason == Reason.INVALID_DATASET


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_empty_class_is_refused_by_name(tmp_path: Path, split: str) -> None:
    fill(tmp_path, "train", 3)
    fill(tmp_path, "val", 3)
    for file in (tmp_path / split / "B").iterdir():
        file.unlink()
    error = refused(tmp_path)
    assert error.reason == Reason.EMPTY_CLASS
    assert f"{split} has no tile of the classes B" in error.message


def test_a_missing_class_folder_is_an_empty_class(tmp_path: Path) -> None:
    fill(tmp_path, "train", 3)
    for file in (tmp_path / "train" / "B").iterdir():
        file.unlink()
    (tmp_path / "train" / "B").rmdir()
    assert refused(tmp_path).reason == Reason.EMPTY_CLASS


def test_a_folder_that_is_no_label_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, "train", 3)
    (tmp_path / "train" / "C").mkdir()
    assert "not in the labels: C" in refused(tmp_path).message


def test_a_data_folder_without_train_is_refused(tmp_path: Path) -> None:
    assert "no train folder" in refused(tmp_path).message


def test_a_copy_of_a_val_tile_leaves_train_and_the_report_says_so(tmp_path: Path) -> None:
    fill(tmp_path, "train", 3)
    fill(tmp_path, "val", 3)
    (tmp_path / "train/A/copy.png").write_bytes((tmp_path / "val/A/0.png").read_bytes())
    splits = read_splits(tmp_path, LABELS)
    assert len(splits.train.samples) == 6
    assert any("1 tiles of train are exact copies" in note for note in splits.notes)


def test_one_image_in_two_classes_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, "train", 3)
    fill(tmp_path, "val", 3)
    (tmp_path / "val/B/copy.png").write_bytes((tmp_path / "train/A/0.png").read_bytes())
    assert "two classes" in refused(tmp_path).message


def test_a_fingerprint_covers_pixels_and_labels_but_not_names(tmp_path: Path) -> None:
    fill(tmp_path, "train", 3)
    fill(tmp_path, "val", 3)
    before = read_splits(tmp_path, LABELS).train.fingerprint
    (tmp_path / "train/A/0.png").rename(tmp_path / "train/A/Mr Smith.png")
    assert read_splits(tmp_path, LABELS).train.fingerprint == before
    (tmp_path / "train/A/Mr Smith.png").write_bytes(b"other")
    assert read_splits(tmp_path, LABELS).train.fingerprint != before


def test_files_of_the_desktop_are_no_tiles(tmp_path: Path) -> None:
    fill(tmp_path, "train", 3)
    fill(tmp_path, "val", 3)
    (tmp_path / "train/A/.DS_Store").write_bytes(b"x")
    (tmp_path / "train/A/Thumbs.db").write_bytes(b"x")
    assert len(read_splits(tmp_path, LABELS).train.samples) == 6


def test_names_sort_as_people_count() -> None:
    assert sorted(["tile_10", "tile_9", "tile_1"], key=natural_key) == ["tile_1", "tile_9", "tile_10"]


def test_a_groups_file_may_say_what_a_tile_was_taken_from(tmp_path: Path) -> None:
    fill(tmp_path, "train", 3)
    fill(tmp_path, "val", 3)
    tiles = [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.png")]
    rows = [(tile, tile, "csf" if tile.endswith("/0.png") else "") for tile in tiles]
    with (tmp_path / "groups.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "group", "specimen_type"), *rows])
    assert [s.specimen_type for s in read_splits(tmp_path, LABELS).val.samples] == ["csf", "", ""] * 2
    group(tmp_path, {tile: tile for tile in tiles})
    assert {s.specimen_type for s in read_splits(tmp_path, LABELS).val.samples} == {""}


def test_a_specimen_type_that_no_slide_can_have_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, "train", 3)
    (tmp_path / "groups.csv").write_text(f"path,group,specimen_type\ntrain/A/0.png,x,{'y' * 64}\n")
    assert "specimen_type" in refused(tmp_path).message


@pytest.mark.parametrize("folders", [(), ("A",)])
def test_a_train_folder_without_two_classes_is_refused(tmp_path: Path, folders: tuple[str, ...]) -> None:
    for name in ("train", *(f"train/{folder}" for folder in folders)):
        (tmp_path / name).mkdir()
    with pytest.raises(InvalidInput) as caught:
        class_folders(tmp_path)
    assert caught.value.reason is Reason.INVALID_DATASET
