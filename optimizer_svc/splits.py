"""The training, validation and test split of an ImageFolder, kept apart by group."""

from __future__ import annotations

import csv
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gramserve.errors import InvalidInput, Reason
from gramserve.store.manifest import Label

SPLIT_NAMES = ("train", "val", "test")
GROUPS_FILE = "groups.csv"
VAL_SHARE = 0.2
MAX_IMAGE_FILE_BYTES = 256 * 2**20
MAX_SPECIMEN_TYPE = 63  # as for the specimen type of a slide that is submitted
NOT_IMAGES = {"thumbs.db", "desktop.ini"}


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled tile on disk: `target` is its index in the labels, `group` its patient, slide or field.

    `specimen_type` is what the tile was taken from, such as "blood-culture"; "" where groups.csv does not say.
    """

    path: Path
    target: int
    group: str
    sha256: str
    specimen_type: str = ""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a tile comes from, by groups.csv."""

    group: str
    specimen_type: str = ""


@dataclass(frozen=True, slots=True)
class Split:
    """The tiles of one split, ordered by class and name; `fingerprint` covers labels and pixels, not names."""

    name: str
    samples: tuple[Sample, ...]
    fingerprint: str

    def counts(self, labels: Sequence[Label]) -> dict[str, int]:
        """Tiles of each class, by label name."""
        counted = Counter(sample.target for sample in self.samples)
        return {label.name: counted[i] for i, label in enumerate(labels)}


@dataclass(frozen=True, slots=True)
class Splits:
    """The splits of a data folder and what had to be done to keep them apart (sentences for the report)."""

    train: Split
    val: Split
    test: Split | None
    notes: tuple[str, ...]


def read_splits(data: Path, labels: Sequence[Label], *, seed: int = 0) -> Splits:
    """The splits of the ImageFolder `data`, whose class folders must be exactly the names of `labels`.

    Without val/, every fifth of train/ by group becomes val: groups by the order of a hash with `seed`, or, where there
    is no groups.csv, the last tiles of each class by name, because neighbouring names are usually cut from one field.
    A tile of train that is also in val or test (same bytes) is dropped from train; one in both val and test is dropped
    from val. Copies in other bytes need pixels to be found: see `leakage`. Raises InvalidInput: INVALID_DATASET,
    EMPTY_CLASS.
    """
    if not (data / "train").is_dir():
        raise _invalid("the data folder has no train folder")
    groups = _read_groups(data)
    parts = {name: _read_split(data, name, labels, groups) for name in SPLIT_NAMES if (data / name).is_dir()}
    notes: list[str] = []
    if "val" not in parts:
        parts["train"], parts["val"] = _divide(parts["train"], labels, seed, grouped=groups is not None)
        how = "by group" if groups is not None else "by name order, because there is no groups.csv"
        notes.append(f"There is no val folder: {len(parts['val'])} tiles of train were set aside as val, {how}.")
    elif groups is None:
        notes.append("There is no groups.csv: that no patient or field is in two splits is taken on trust.")
    _refuse_contradictions(parts)
    _drop_duplicates(parts, notes)
    if groups is not None:
        _refuse_shared_groups(parts)
    for name, samples in parts.items():
        _refuse_empty(name, samples, labels)
    made = {name: Split(name, tuple(samples), _fingerprint(samples, labels)) for name, samples in parts.items()}
    return Splits(made["train"], made["val"], made.get("test"), tuple(notes))


def select(split: Split, keep: NDArray[np.bool_], labels: Sequence[Label]) -> Split:
    """`split` with those of its samples that `keep` [N] names; InvalidInput EMPTY_CLASS when a class has none left."""
    samples = [sample for sample, kept in zip(split.samples, keep, strict=True) if kept]
    _refuse_empty(split.name, samples, labels)
    return Split(split.name, tuple(samples), _fingerprint(samples, labels))


def class_folders(data: Path) -> list[str]:
    """The class folders of train/, sorted; InvalidInput INVALID_DATASET when there are not two of them."""
    if not (data / "train").is_dir():
        raise _invalid("the data folder has no train folder")
    found = sorted(p.name for p in (data / "train").iterdir() if p.is_dir() and not p.name.startswith("."))
    if len(found) < 2:
        raise _invalid(f"train needs a folder for each class, two or more; there are {len(found)}")
    return found


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """A sort key that puts tile_2 before tile_10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


def _read_split(data: Path, split: str, labels: Sequence[Label], origins: dict[str, Origin] | None) -> list[Sample]:
    folder = data / split
    names = {p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")}
    wanted = {label.name for label in labels}
    if extra := sorted(names - wanted):
        raise _invalid(f"{split} has class folders that are not in the labels: {', '.join(extra[:5])}")
    if missing := sorted(wanted - names):
        raise InvalidInput(
            Reason.EMPTY_CLASS,
            f"{split} has no folder for the classes {', '.join(missing[:5])}",
            metadata={"split": split},
        )
    samples = []
    for target, label in enumerate(labels):
        files = [
            p
            for p in (folder / label.name).rglob("*")
            if p.is_file() and not p.name.startswith(".") and p.name.lower() not in NOT_IMAGES
        ]
        for path in sorted(files, key=lambda p: natural_key(p.relative_to(folder).as_posix())):
            key = path.relative_to(data).as_posix()
            if origins is not None and key not in origins:
                raise _invalid(f"{GROUPS_FILE} does not list every tile: one in {split}/{label.name} is missing")
            if path.stat().st_size > MAX_IMAGE_FILE_BYTES:
                raise _invalid(f"a file in {split}/{label.name} is larger than {MAX_IMAGE_FILE_BYTES} bytes")
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            origin = origins[key] if origins is not None else Origin(key)
            samples.append(Sample(path, target, origin.group, digest, origin.specimen_type))
    _refuse_empty(split, samples, labels)
    return samples


def _read_groups(data: Path) -> dict[str, Origin] | None:
    """groups.csv by path: the columns path and group, and, where there is one, specimen_type."""
    file = data / GROUPS_FILE
    if not file.is_file():
        return None
    try:
        rows = list(csv.DictReader(file.read_text(encoding="utf-8-sig").splitlines()))
    except (UnicodeDecodeError, csv.Error):
        raise _invalid(f"{GROUPS_FILE} is not a readable CSV file") from None
    if not rows or not {"path", "group"} <= set(rows[0]):
        raise _invalid(f"{GROUPS_FILE} needs the columns path and group")
    groups: dict[str, Origin] = {}
    for row in rows:
        path, group = (row["path"] or "").strip().replace("\\", "/"), (row["group"] or "").strip()
        origin = Origin(group, (row.get("specimen_type") or "").strip())
        if not path or not group or groups.setdefault(path, origin) != origin:
            raise _invalid(f"{GROUPS_FILE} has an empty field, or gives one tile two groups")
        if len(origin.specimen_type) > MAX_SPECIMEN_TYPE or not origin.specimen_type.isprintable():
            raise _invalid(f"a specimen_type in {GROUPS_FILE} has more than {MAX_SPECIMEN_TYPE} printable characters")
    return groups


def _divide(
    samples: list[Sample], labels: Sequence[Label], seed: int, *, grouped: bool
) -> tuple[list[Sample], list[Sample]]:
    """Splits `samples` into train and val: a fifth of each class, whole groups only."""
    members: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        members[sample.group].append(sample)
    if grouped:
        order = sorted(members, key=lambda g: hashlib.sha256(f"{seed}/{g}".encode()).digest())
    else:
        order = list(members)[::-1]
    totals = Counter(sample.target for sample in samples)
    taken: Counter[int] = Counter()
    chosen: set[str] = set()
    for group in order:
        held = Counter(sample.target for sample in members[group])
        wants = any(taken[t] < VAL_SHARE * totals[t] for t in held)
        leaves = all(taken[t] + n < totals[t] for t, n in held.items())
        if wants and leaves:
            chosen.add(group)
            taken.update(held)
    for target, label in enumerate(labels):
        if not taken[target]:
            raise _invalid(f"class {label.name} has too few groups in train to set some aside as val")
    train = [s for s in samples if s.group not in chosen]
    return train, [s for s in samples if s.group in chosen]


def _refuse_contradictions(parts: dict[str, list[Sample]]) -> None:
    targets: dict[str, int] = {}
    for samples in parts.values():
        for sample in samples:
            if targets.setdefault(sample.sha256, sample.target) != sample.target:
                raise _invalid("the same image is in the folders of two classes")


def _drop_duplicates(parts: dict[str, list[Sample]], notes: list[str]) -> None:
    """Keeps each image in the split that judges: test before val before train."""
    seen: set[str] = set()
    for name in reversed([n for n in SPLIT_NAMES if n in parts]):
        kept = [sample for sample in parts[name] if sample.sha256 not in seen]
        if dropped := len(parts[name]) - len(kept):
            notes.append(f"{dropped} tiles of {name} are exact copies of tiles of a later split and were left out.")
        parts[name] = kept
        seen |= {sample.sha256 for sample in kept}


def _refuse_shared_groups(parts: dict[str, list[Sample]]) -> None:
    owner: dict[str, str] = {}
    shared = {s.group for name, samples in parts.items() for s in samples if owner.setdefault(s.group, name) != name}
    if shared:
        raise _invalid(f"{len(shared)} groups have tiles in more than one split: accuracy would be flattered")


def _refuse_empty(split: str, samples: list[Sample], labels: Sequence[Label]) -> None:
    counted = Counter(sample.target for sample in samples)
    if empty := [label.name for i, label in enumerate(labels) if not counted[i]]:
        raise InvalidInput(
            Reason.EMPTY_CLASS, f"{split} has no tile of the classes {', '.join(empty[:5])}", metadata={"split": split}
        )


def _fingerprint(samples: Sequence[Sample], labels: Sequence[Label]) -> str:
    lines = sorted(f"{labels[sample.target].name} {sample.sha256}\n" for sample in samples)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _invalid(message: str) -> InvalidInput:
    return InvalidInput(Reason.INVALID_DATASET, message)
