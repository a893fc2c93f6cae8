"""What a DICOM file says it is, read without its pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import pydicom
from pydicom.dataset import Dataset, FileDataset
from pydicom.filereader import read_file_meta_info
from pydicom.uid import DeflatedExplicitVRLittleEndian, VLWholeSlideMicroscopyImageStorage

from gramserve.errors import Reason, SlideFailed
from gramserve.images.refuse import corrupt, unsupported_format
from gramserve.images.slidefile import SlideFile

VOLUME: Final = "VOLUME"

MAX_FRAMES: Final = 1_000_000
"""Frames of one instance; a slide of 100,000 x 100,000 pixels has 160,000 of 256."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One DICOM instance of a whole slide: `series` it belongs to, `kind` (VOLUME, LABEL, OVERVIEW, THUMBNAIL), header.

    `columns` x `rows` are pixels of its whole matrix.
    """

    file: SlideFile
    series: str
    kind: str
    columns: int
    rows: int
    header: Dataset

    @property
    def is_level(self) -> bool:
        """Whether it holds a level of the slide; all others may show who the patient is and are never read."""
        return self.kind == VOLUME


def read_instance(file: SlideFile) -> Instance:
    """The instance in `file`, whose header promises no more than a reader can hold.

    Raises SlideFailed: NOT_A_SLIDE (another kind of DICOM), CORRUPT_IMAGE, UNSUPPORTED_FORMAT (deflated as a whole,
    which would be inflated whatever it is), IMAGE_TOO_LARGE.
    """
    try:
        _check_syntax(read_file_meta_info(file.path))
        header: FileDataset = pydicom.dcmread(file.path, stop_before_pixels=True, defer_size=1 << 20)
        return _instance(file, header)
    except SlideFailed:
        raise
    except OSError:
        raise corrupt("DICOM file", "it cannot be read") from None
    except Exception:  # pydicom raises whatever a damaged element makes it stumble over
        raise corrupt("DICOM file", "its header does not make sense") from None


def _instance(file: SlideFile, header: FileDataset) -> Instance:
    if header.file_meta.MediaStorageSOPClassUID != VLWholeSlideMicroscopyImageStorage:
        raise _not_a_slide("The DICOM file is no whole slide (VL Whole Slide Microscopy Image); send one.")
    kinds = [str(value).upper() for value in header.ImageType]
    columns, rows = int(header.TotalPixelMatrixColumns), int(header.TotalPixelMatrixRows)
    _check_frames(columns, rows, int(header.Columns), int(header.Rows), int(header.get("NumberOfFrames", 1)))
    return Instance(
        file=file,
        series=str(header.SeriesInstanceUID),
        kind=kinds[2] if len(kinds) > 2 else "",
        columns=columns,
        rows=rows,
        header=header,
    )


def _check_syntax(meta: Dataset) -> None:
    """A file that is deflated as a whole would be inflated to whatever it is, before anything else is known of it."""
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        raise unsupported_format("The DICOM file is deflated as a whole")


def _check_frames(columns: int, rows: int, width: int, height: int, count: int) -> None:
    """Readers walk over all frames, and over the grid that they should fill, before they read one."""
    if min(columns, rows, width, height, count) < 1:
        raise corrupt("DICOM file", "its size makes no sense")
    if max(count, -(-columns // width) * -(-rows // height)) > MAX_FRAMES:
        raise SlideFailed(Reason.IMAGE_TOO_LARGE, f"The DICOM file promises more than {MAX_FRAMES} frames.")


def no_volume() -> SlideFailed:
    """Instances of a slide without one that holds its levels."""
    return _not_a_slide("The DICOM files are only a label, overview or thumbnail of a slide; send its VOLUME images.")


def _not_a_slide(message: str) -> SlideFailed:
    return SlideFailed(Reason.NOT_A_SLIDE, message)
