"""What a DICOM file says it is, read without its pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import pydicom
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import VLWholeSlideMicroscopyImageStorage

from gramserve.errors import Reason, SlideFailed
from gramserve.images.refuse import corrupt
from gramserve.images.slidefile import SlideFile

VOLUME: Final = "VOLUME"


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
    """The instance in `file`; raises SlideFailed: NOT_A_SLIDE (another kind of DICOM), CORRUPT_IMAGE."""
    try:
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
    return Instance(
        file=file,
        series=str(header.SeriesInstanceUID),
        kind=kinds[2] if len(kinds) > 2 else "",
        columns=int(header.TotalPixelMatrixColumns),
        rows=int(header.TotalPixelMatrixRows),
        header=header,
    )


def no_volume() -> SlideFailed:
    """Instances of a slide without one that holds its levels."""
    return _not_a_slide("The DICOM files are only a label, overview or thumbnail of a slide; send its VOLUME images.")


def _not_a_slide(message: str) -> SlideFailed:
    return SlideFailed(Reason.NOT_A_SLIDE, message)
