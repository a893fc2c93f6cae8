"""A synthetic whole slide in DICOM, of a few uncompressed tiles."""

from __future__ import annotations

import io

import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from tests.images.files import picture

SLIDE_MICROSCOPY = "1.2.840.10008.5.1.4.1.1.77.1.6"
TILE_PX, COLUMNS, ROWS = 16, 64, 48


def dicom_file(kind: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "VOLUME", "NONE")) -> bytes:
    """The bytes of one instance of image type `kind`."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = pydicom.uid.UID(SLIDE_MICROSCOPY)
    meta.MediaStorageSOPInstanceUID = pydicom.uid.UID("1.2.3.4")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    found = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    found.SOPClassUID, found.SOPInstanceUID = SLIDE_MICROSCOPY, "1.2.3.4"
    found.StudyInstanceUID, found.SeriesInstanceUID, found.FrameOfReferenceUID = "1.2.3", "1.2.3.1", "1.2.3.2"
    found.Modality, found.ImageType = "SM", list(kind)
    found.TotalPixelMatrixColumns, found.TotalPixelMatrixRows = COLUMNS, ROWS
    found.Columns = found.Rows = TILE_PX
    found.NumberOfFrames = (COLUMNS // TILE_PX) * (ROWS // TILE_PX)
    found.SamplesPerPixel, found.PhotometricInterpretation, found.PlanarConfiguration = 3, "RGB", 0
    found.BitsAllocated, found.BitsStored, found.HighBit, found.PixelRepresentation = 8, 8, 7, 0
    found.DimensionOrganizationType = "TILED_FULL"
    found.ImagedVolumeWidth, found.ImagedVolumeHeight = COLUMNS * 0.00025, ROWS * 0.00025
    measures = Dataset()
    measures.PixelSpacing, measures.SliceThickness = [0.00025, 0.00025], 0.001
    shared = Dataset()
    shared.PixelMeasuresSequence = [measures]
    found.SharedFunctionalGroupsSequence = [shared]
    pixels = picture(COLUMNS, ROWS)
    found.PixelData = b"".join(
        pixels[y : y + TILE_PX, x : x + TILE_PX].tobytes()
        for y in range(0, ROWS, TILE_PX)
        for x in range(0, COLUMNS, TILE_PX)
    )
    file = io.BytesIO()
    found.save_as(file, enforce_file_format=True)
    return file.getvalue()
