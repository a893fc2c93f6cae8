"""Hostile image files: each small, each made to cost much, to break a decoder or to pass for something else."""

from __future__ import annotations

import functools
import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    VLWholeSlideMicroscopyImageStorage,
    generate_uid,
)

from tests.images.files import encode, picture, png_bomb, png_chunk, tiff

RGB = picture()
MAGIC = b"\x89PNG\r\n\x1a\n"
MIB = 2**20


@functools.cache
def zeros(mib: int, window: int = zlib.MAX_WBITS, before: bytes = b"") -> bytes:
    """So many MiB of zeros, deflated to a two-hundredth."""
    squeeze = zlib.compressobj(1, zlib.DEFLATED, window)
    return b"".join([squeeze.compress(before), *(squeeze.compress(bytes(MIB)) for _ in range(mib)), squeeze.flush()])


# PNG.


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return MAGIC + b"".join(png_chunk(*one) for one in [(b"IHDR", header), *chunks, (b"IEND", b"")])


def honest_pixels(width: int = 64, height: int = 64) -> bytes:
    return zlib.compress((b"\0" + bytes([225] * 3 * width)) * height)


def png_of_many_pixels() -> bytes:
    return png_bomb()


def png_that_inflates() -> bytes:
    return png(64, 64, (b"IDAT", zeros(512)))


def png_with_a_bomb_as_profile() -> bytes:
    return png(64, 64, (b"iCCP", b"p\0\0" + zeros(512)), (b"IDAT", honest_pixels()))


def png_with_a_bomb_as_text() -> bytes:
    return png(64, 64, (b"zTXt", b"t\0\0" + zeros(512)), (b"IDAT", honest_pixels()))


def png_of_a_million_chunks() -> bytes:
    return png(64, 64, *[(b"tEXt", b"")] * 500_000, (b"IDAT", honest_pixels()))


def png_with_a_length_beyond_the_file() -> bytes:
    return png(64, 64, (b"IDAT", honest_pixels()))[:-12] + struct.pack(">I", 0xFFFFFFFF) + b"IDAT"


# JPEG.


def jpeg_of_many_pixels() -> bytes:
    return encode(RGB, "JPEG").replace(struct.pack(">HH", 80, 100), struct.pack(">HH", 65_500, 65_500), 1)


def jpeg_of_many_scans() -> bytes:
    data = encode(RGB, "JPEG", progressive=True)
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * 5000 + b"\xff\xd9"


def jpeg_of_many_markers() -> bytes:
    data = encode(RGB, "JPEG")
    return data[:2] + b"\xff\xfe\x00\x02" * 1_000_000 + data[2:]


def jpeg_of_filling() -> bytes:
    data = encode(RGB, "JPEG")
    return data[:2] + b"\xff" * (64 * MIB) + data[2:]


def jpeg_with_two_sizes() -> bytes:
    data = encode(RGB, "JPEG")
    at = data.index(b"\xff\xc0")
    frame = data[at : at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")]
    huge = frame.replace(struct.pack(">HH", 80, 100), struct.pack(">HH", 60_000, 60_000))
    return data[: at + len(frame)] + huge + data[at + len(frame) :]


# TIFF.


def tiff_of_many_pixels() -> bytes:
    return tiff(RGB, tags={256: [1 << 20], 257: [1 << 20]})


def tiff_strip_that_inflates() -> bytes:
    squeezed = zeros(512)
    data = bytearray(tiff(RGB, compression=8, tags={278: [80], 273: [8], 279: [len(squeezed)]}))
    return bytes(data[:8]) + squeezed + bytes(data[8:])


def tiff_whose_directory_is_its_own_next() -> bytes:
    return chained(1, loop=True)


def tiff_of_a_hundred_thousand_directories() -> bytes:
    return chained(100_000)


def chained(count: int, *, loop: bool = False) -> bytes:
    """Directories of a small tiled picture each, one after the other; the last leads back to the first or nowhere."""
    pixels = bytes(256 * 3 * 16 * 16 // 256)
    entries = [
        (256, 4, 1, 16), (257, 4, 1, 16), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1),
        (322, 4, 1, 16), (323, 4, 1, 16), (324, 4, 1, 8), (325, 4, 1, 256),
    ]  # fmt: skip
    size, start = 2 + 12 * len(entries) + 4, 8 + len(pixels)
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    directories = []
    for number in range(count):
        following = start + size * (number + 1) if number < count - 1 else (start if loop else 0)
        directories.append(struct.pack("<H", len(entries)) + body + struct.pack("<I", following))
    return struct.pack("<2sHI", b"II", 42, start) + pixels + b"".join(directories)


def tiff_with_a_directory_loop_of_children() -> bytes:
    """SubIFDs that lead back to the directory itself."""
    return tiff(RGB, tags={330: [8]})


def bigtiff_of_endless_values() -> bytes:
    data = tiff(RGB, big=True)
    return data.replace(struct.pack("<HHQ", 273, 16, 5), struct.pack("<HHQ", 273, 16, 1 << 60), 1)


def tiff_with_huge_strips() -> bytes:
    return tiff(RGB, tags={279: [0xFFFFFFFF] * 5})


def tiff_with_huge_tiles() -> bytes:
    return tiff(RGB, tags={322: [1 << 31], 323: [1 << 31], 324: [8], 325: [100]})


def aperio_with_huge_tiles() -> bytes:
    """A pyramid as scanners write it, whose tiles are a gigapixel each."""
    image = b"Aperio Image Library\r\n1x1|AppMag = 40|MPP = 0.25\0"
    entries = [
        (254, 4, 1, 0), (256, 4, 1, 1 << 20), (257, 4, 1, 1 << 20), (258, 3, 1, 8), (259, 3, 1, 7), (262, 3, 1, 6),
        (270, 2, len(image), 8), (277, 3, 1, 3), (322, 4, 1, 1 << 15), (323, 4, 1, 1 << 15), (324, 4, 1, 8),
        (325, 4, 1, 40),
    ]  # fmt: skip
    body = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return struct.pack("<2sHI", b"II", 42, 8 + len(image)) + image + body + bytes(4)


# DICOM.


def dicom(*, syntax: str = ExplicitVRLittleEndian, **elements: Any) -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = VLWholeSlideMicroscopyImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = syntax
    data = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    values = {
        "SOPClassUID": VLWholeSlideMicroscopyImageStorage,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID, "Modality": "SM",
        "SeriesInstanceUID": "1.2.3", "ImageType": ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], "Rows": 64, "Columns": 64,
        "TotalPixelMatrixRows": 64, "TotalPixelMatrixColumns": 64, "NumberOfFrames": 1, "SamplesPerPixel": 3,
        "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0, "BitsAllocated": 8, "BitsStored": 8,
        "HighBit": 7, "PixelRepresentation": 0, "PixelData": bytes(64 * 64 * 3), **elements,
    }  # fmt: skip
    for name, value in values.items():
        setattr(data, name, value)
    file = io.BytesIO()
    data.save_as(file, enforce_file_format=True)
    return file.getvalue()


def dicom_of_many_pixels() -> bytes:
    return dicom(Rows=65_535, Columns=65_535, TotalPixelMatrixRows=2**31 - 1, TotalPixelMatrixColumns=2**31 - 1)


def dicom_of_endless_frames() -> bytes:
    return dicom(NumberOfFrames=2**31 - 1, TotalPixelMatrixRows=2**20, TotalPixelMatrixColumns=2**20)


def dicom_that_inflates() -> bytes:
    head = dicom(syntax=DeflatedExplicitVRLittleEndian)
    # A comment of half a gigabyte in front of everything else.
    text = struct.pack("<HH2sHI", 0x0008, 0x0001, b"UT", 0, 512 * MIB)
    bomb = zeros(512, -zlib.MAX_WBITS, text)
    meta_length = int.from_bytes(head[140:144], "little")
    return head[: 144 + meta_length] + bomb


def dicom_nested_without_end() -> bytes:
    begin = struct.pack("<HH2sHI", 0x0008, 0x1115, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    end = struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    whole = dicom()
    at = whole.index(struct.pack("<HH", 0x0020, 0x000E))
    return whole[:at] + begin * 20_000 + end * 20_000 + whole[at:]


def dicom_with_a_lying_frame() -> bytes:
    """JPEG 2000 whose header promises a gigapixel."""
    stream = io.BytesIO()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(stream, "JPEG2000")
    data = stream.getvalue().replace(struct.pack(">II", 64, 64), struct.pack(">II", 60_000, 60_000))
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0) + struct.pack("<HHI", 0xFFFE, 0xE000, len(data) + len(data) % 2)
    frames = item + data + bytes(len(data) % 2) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    head = dicom(syntax=ExplicitVRLittleEndian, PixelData=b"")
    at = head.rindex(struct.pack("<HH", 0x7FE0, 0x0010))
    swapped = head[:at].replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.4", 1)
    return swapped + struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF) + frames


# What passes for something else.


def archive(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in members.items():
            packed.writestr(name, data)
    return file.getvalue()


def zip_bomb() -> bytes:
    return archive(slide=bytes(64 * MIB))


def svg_that_reads_files() -> bytes:
    return b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'


def hdf5() -> bytes:
    return b"\x89HDF\r\n\x1a\n" + bytes(4096)


def hdf5_called_a_tiff() -> bytes:
    return b"II*\0" + hdf5()


def openslide_of_other_files() -> bytes:
    """A Hamamatsu VMS: an INI file that names the images that a reader should open."""
    return b"[Virtual Microscope Specimen]\nNoLayers=1\nImageFile=/etc/passwd\nMapFile=../../../etc/passwd\n"


def openslide_of_a_database() -> bytes:
    return b"SQLite format 3\0" + bytes(4096)


def dicom_that_is_a_tiff() -> bytes:
    """Both marks: what one reader takes for a TIFF another takes for DICOM."""
    return b"II*\0" + dicom()[4:]


def tiff_that_is_a_script() -> bytes:
    return b"II*\0" + b"#!/bin/sh\nrm -rf /\n" * 100


def pdf() -> bytes:
    return b"%PDF-1.7\n1 0 obj<</OpenAction<</S/JavaScript>>>>\n" * 50


def gif_that_is_javascript() -> bytes:
    return b"GIF89a/*" + bytes(100) + b"*/=1;alert(1)"


def postscript() -> bytes:
    return b"%!PS\n(%pipe%id) (w) file\n"


HARMLESS = {
    "png_with_a_bomb_as_profile", "png_with_a_bomb_as_text", "png_that_inflates", "jpeg_of_filling",
    "tiff_with_a_directory_loop_of_children", "dicom_that_is_a_tiff",
}  # fmt: skip
"""May be read as well as refused: the picture in them is sound, and what is around it must cost nothing."""

ATTACKS: dict[str, Callable[[], bytes]] = {
    made.__name__: made
    for made in (
        png_of_many_pixels, png_that_inflates, png_with_a_bomb_as_profile, png_with_a_bomb_as_text,
        png_of_a_million_chunks, png_with_a_length_beyond_the_file, jpeg_of_many_pixels, jpeg_of_many_scans,
        jpeg_of_many_markers, jpeg_of_filling, jpeg_with_two_sizes, tiff_of_many_pixels, tiff_strip_that_inflates,
        tiff_whose_directory_is_its_own_next, tiff_of_a_hundred_thousand_directories,
        tiff_with_a_directory_loop_of_children, bigtiff_of_endless_values, tiff_with_huge_strips, tiff_with_huge_tiles,
        aperio_with_huge_tiles, dicom_of_many_pixels, dicom_of_endless_frames, dicom_that_inflates,
        dicom_nested_without_end, dicom_with_a_lying_frame, zip_bomb, svg_that_reads_files, hdf5, hdf5_called_a_tiff,
        openslide_of_other_files, openslide_of_a_database, dicom_that_is_a_tiff, tiff_that_is_a_script, pdf,
        gif_that_is_javascript, postscript,
    )
}  # fmt: skip
