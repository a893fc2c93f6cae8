"""Which files make which slides: a file is a slide of one field, a folder a slide of its images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from gramserve.errors import InvalidInput, Reason

WHOLE_SUFFIXES = frozenset({".svs", ".ndpi"})  # each file a whole slide; that of DICOM may be many files
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".dcm"}) | WHOLE_SUFFIXES

SlidePaths: TypeAlias = Annotated[
    list[Path],
    typer.Argument(
        metavar="PATH...",
        help="A file is a slide of one field; a folder is a slide whose images are its fields; "
        "a folder of folders holds a slide in each.",
    ),
]
Model: TypeAlias = Annotated[
    str, typer.Option(help='Model: "gram", "models/gram", "models/gram/versions/3".', metavar="NAME")
]
SpecimenType: TypeAlias = Annotated[str, typer.Option(help='Kind of specimen, e.g. "blood-culture".', metavar="KIND")]


@dataclass(frozen=True, slots=True)
class LocalSlide:
    """One slide as it lies on this machine."""

    slide_id: str
    fields: tuple[Path, ...]


def find_slides(paths: Sequence[Path]) -> list[LocalSlide]:
    """The slides that `paths` stand for, in the order given; those of a folder of folders by name.

    A slide is called after its file (without suffix) or folder, with as many parents as it takes to tell all apart.
    Raises InvalidInput (NO_SLIDES, INVALID_FIELD, DUPLICATE_SLIDE_ID).
    """
    found: list[tuple[Path, tuple[Path, ...]]] = []
    for path in paths:
        if not path.exists():
            raise InvalidInput(Reason.INVALID_FIELD, f"{path} does not exist")
        found += _in_folder(path) if path.is_dir() else [(path, (path,))]
    if not found:
        raise InvalidInput(Reason.NO_SLIDES, "there are no slides to submit")
    ids = _distinct_names([path for path, _ in found])
    return [LocalSlide(name, fields) for name, (_, fields) in zip(ids, found, strict=True)]


def _in_folder(folder: Path) -> list[tuple[Path, tuple[Path, ...]]]:
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    images = tuple(entry for entry in entries if entry.is_file() and entry.suffix.lower() in IMAGE_SUFFIXES)
    folders = [entry for entry in entries if entry.is_dir()]
    if images and folders:
        raise InvalidInput(
            Reason.INVALID_FIELD,
            f"{folder} holds images and folders: is it one slide or are they many? Name them apart",
        )
    if len(images) > 1 and any(image.suffix.lower() in WHOLE_SUFFIXES for image in images):
        # One slide of them would be one call for several patients.
        raise InvalidInput(
            Reason.INVALID_FIELD,
            f"{folder} holds whole slides, each of them a slide of its own: name the files, not the folder",
        )
    if images:
        return [(folder, images)]
    if not folders:
        raise InvalidInput(Reason.NO_SLIDES, f"{folder} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return [slide for inner in folders for slide in _in_folder(inner)]


def _distinct_names(paths: list[Path]) -> list[str]:
    absolute = [path.absolute() for path in paths]
    if len(set(absolute)) < len(absolute):
        raise InvalidInput(Reason.DUPLICATE_SLIDE_ID, "a path is given twice")
    # With the suffix only when one folder holds the same name with two suffixes.
    for parts in (
        [path.with_suffix("").parts if path.is_file() else path.parts for path in absolute],
        [path.parts for path in absolute],
    ):
        for depth in range(1, max(map(len, parts)) + 1):
            names = ["/".join(part[-depth:]) for part in parts]
            if len(set(names)) == len(names):
                return names
    raise InvalidInput(Reason.DUPLICATE_SLIDE_ID, "two paths name the same slide")
