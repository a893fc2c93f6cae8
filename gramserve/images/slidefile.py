"""An image file that stays open, because it is too large to be bytes in memory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final, TypeAlias

from gramserve.images import tiff

_CHUNK_BYTES: Final = 1 << 20
_DICOM_AT, _DICOM = 128, b"DICM"
HEAD_BYTES: Final = _DICOM_AT + len(_DICOM)

Identity: TypeAlias = tuple[int, int, int, int]
"""What changes when a file is written or exchanged: device, inode, bytes, time of the last change in ns."""


class SlideFile:
    """A regular file behind `handle`, which is closed with it; other bytes never stand behind it."""

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self._closed = False

    @classmethod
    def at(cls, path: Path) -> SlideFile:
        """The file at a trusted `path`; raises OSError."""
        return cls(os.open(path, os.O_RDONLY | os.O_CLOEXEC))

    @property
    def path(self) -> str:
        """A name under which libraries of this process can open the very file, whatever happened to its own name."""
        return f"/proc/self/fd/{self._handle}"

    @property
    def size(self) -> int:
        """Bytes."""
        return os.fstat(self._handle).st_size

    @property
    def identity(self) -> Identity:
        """The file as it is now."""
        status = os.fstat(self._handle)
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns

    def head(self) -> bytes:
        """The first 132 bytes, which tell formats apart."""
        return os.pread(self._handle, HEAD_BYTES, 0)

    def part(self, at: int, length: int) -> bytes:
        """`length` bytes from `at`; fewer at the end."""
        return os.pread(self._handle, length, at)

    def read(self, most: int) -> bytes:
        """The first `most` bytes, all where there are fewer."""
        wanted = min(most, self.size + 1)  # one more shows that the end was reached
        data = os.pread(self._handle, wanted, 0)
        if 0 < len(data) < wanted or len(data) == most:
            return data
        with open(self._handle, "rb", closefd=False) as file:  # it grew, or does not say its size
            file.seek(0)
            return file.read(most)

    def sha256(self) -> str:
        """SHA-256 of all bytes, in bounded memory."""
        digest, at = hashlib.sha256(), 0
        while chunk := os.pread(self._handle, _CHUNK_BYTES, at):
            digest.update(chunk)
            at += len(chunk)
        return digest.hexdigest()

    def close(self) -> None:
        """Close the file; closing twice is no harm."""
        if not self._closed:
            self._closed = True
            os.close(self._handle)


def close_all(files: Iterable[SlideFile]) -> None:
    """Close all of `files`."""
    for file in files:
        file.close()


def identities(files: Iterable[SlideFile]) -> tuple[Identity, ...]:
    """What `files` are now."""
    return tuple(file.identity for file in files)


def may_be_slide(head: bytes) -> bool:
    """Whether a file that begins with `head` could hold a whole slide: a TIFF of any kind, or DICOM."""
    return head.startswith(tiff.MAGICS) or is_dicom(head)


def is_dicom(head: bytes) -> bool:
    """Whether a file that begins with `head` is DICOM."""
    return head[_DICOM_AT:HEAD_BYTES] == _DICOM
