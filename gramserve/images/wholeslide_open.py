"""Files to whole slides: told by their content, never by their names."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from gramserve.errors import Reason, SlideFailed
from gramserve.images.limits import ImageLimits
from gramserve.images.slidefile import SlideFile, close_all
from gramserve.images.tiff_chain import check_chain
from gramserve.images.wholeslide import Reader, WholeSlide

if TYPE_CHECKING:
    from gramserve.images.dicom import Instance

# Loaded when the first slide comes: most workers never see one.
_OPENSLIDE = "gramserve.images.wholeslide_openslide"
_DICOM = "gramserve.images.dicom"
_PYDICOM_READER = "gramserve.images.wholeslide_dicom"


def open_tiff(file: SlideFile, limits: ImageLimits) -> WholeSlide | None:
    """The slide in a TIFF file: one that a scanner wrote, or a tiled one that has levels or is over `limits`.

    It closes `file` with it. None for all other files, which are fields; they stay open.
    Raises SlideFailed: UNSUPPORTED_FORMAT (no reader installed, or too many pages), CORRUPT_IMAGE, SLIDE_UNREADABLE.
    """
    check_chain(file.part, file.size)
    openslide = _reader_module(_OPENSLIDE)
    vendor = openslide.vendor_of(file.path)
    if vendor is None:
        return None
    small = vendor == openslide.GENERIC and file.size <= limits.max_bytes
    try:
        slide = WholeSlide(openslide.OpenSlideReader(file.path), closed=file.close)
    except SlideFailed:
        if small:  # read as a field, it is refused by what is wrong with it
            return None
        raise
    if small and len(slide.downsamples) == 1 and slide.width * slide.height <= limits.max_pixels:
        return None
    return slide


def open_dicom(files: Sequence[SlideFile]) -> Iterator[WholeSlide]:
    """The slides in DICOM `files`, one for each run of instances of one series; they close their files with them.

    Raises SlideFailed: UNSUPPORTED_FORMAT (no reader installed), NOT_A_SLIDE, CORRUPT_IMAGE, SLIDE_UNREADABLE.
    """
    dicom = _reader_module(_DICOM)
    instances: list[Instance] = [dicom.read_instance(file) for file in files]
    for _, run in groupby(instances, key=lambda instance: instance.series):
        yield _open_series(list(run))


def _open_series(instances: list[Instance]) -> WholeSlide:
    levels = [instance for instance in instances if instance.is_level]
    if not levels:
        raise cast("SlideFailed", _reader_module(_DICOM).no_volume())
    main = max(range(len(instances)), key=lambda number: (instances[number].is_level, instances[number].columns))
    with ExitStack() as owned:
        owned.callback(close_all, [instance.file for instance in instances])
        try:
            reader = _open_by_openslide(levels, owned)
        except SlideFailed:
            reader = cast("Reader", _reader_module(_PYDICOM_READER).DicomReader(levels))
        return WholeSlide(reader, images=len(instances), main=main, closed=owned.pop_all().close)


def _open_by_openslide(levels: list[Instance], owned: ExitStack) -> Reader:
    """OpenSlide looks for the instances of a slide in the folder of one: a folder of links to exactly these files."""
    folder = Path(owned.enter_context(tempfile.TemporaryDirectory(prefix="gramserve-dicom-")))
    for number, level in enumerate(levels):
        (folder / f"{number}.dcm").symlink_to(level.file.path)
    return cast("Reader", _reader_module(_OPENSLIDE).OpenSlideReader(str(folder / "0.dcm")))


def _reader_module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise SlideFailed(
            Reason.UNSUPPORTED_FORMAT, "This worker reads no whole slides: its gramserve lacks the extra [slides]."
        ) from None
