"""Bytes to upload, in memory or in a file: their digest and their chunks, read without holding up the event loop."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Content:
    """What is uploaded; `sha256` in lower-case hex names it."""

    source: Path | bytes
    sha256: str
    size_bytes: int

    @classmethod
    async def of(cls, source: Path | bytes) -> Content:
        """Reads `source` once for its digest. Raises OSError when a file cannot be read."""
        sha256, size_bytes = await asyncio.to_thread(_digest, source)
        return cls(source, sha256, size_bytes)

    async def chunks(self, offset: int) -> AsyncIterator[bytes]:
        """The bytes from `offset` on, at most CHUNK_BYTES at a time."""
        for start in range(offset, self.size_bytes, CHUNK_BYTES):
            if isinstance(self.source, bytes):
                yield self.source[start : start + CHUNK_BYTES]
            else:
                yield await asyncio.to_thread(_read, self.source, start)


def _digest(source: Path | bytes) -> tuple[str, int]:
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest(), len(source)
    with source.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), file.tell()


def _read(path: Path, start: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(CHUNK_BYTES)
