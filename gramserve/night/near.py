"""Brings images of a store on S3, one slide at a time, into a folder: the child that opens them has no network."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory

from gramserve.errors import Exhausted, NotFound, Reason
from gramserve.images.slidefile import HEAD_BYTES, is_dicom
from gramserve.night.wanted import Cut
from gramserve.store.layout import slide_path
from gramserve.store.objects import LocalObjects, ObjectStore

_CHUNK_BYTES = 8 * 2**20
MOST_BYTES = 2**30
"""Of one image; larger ones have no pictures."""


class Near:
    """A store in a folder of its own that holds the images of one slide. Use it as a context."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        self._folder = TemporaryDirectory(prefix="gramserve-night-")
        self._near = LocalObjects(self._folder.name)

    @property
    def url(self) -> str:
        """The store in the folder."""
        return self._folder.name

    async def bring(self, cut: Cut) -> None:
        """Copy what `cut` needs, in place of what was there: the images of its tiles, and all of a DICOM slide.

        Raises NotFound, Unavailable, Exhausted (an image over a gibibyte, or no room for it).
        """
        await self._near.delete_folder("slides")
        indices = {tile.image_index for tile in cut.tiles if tile.image_index < len(cut.images)}
        paths = [slide_path(cut.laboratory, image.sha256) if image.sha256 else "" for image in cut.images]
        heads = [await self._objects.get_range(paths[index], 0, HEAD_BYTES) for index in indices if paths[index]]
        if any(map(is_dicom, heads)):
            indices = set(range(len(paths)))
        for path in dict.fromkeys(paths[index] for index in sorted(indices) if paths[index]):
            size = await self._objects.size(path)
            if size is None:
                raise NotFound(Reason.REFERENCE_NOT_FOUND, "an image is not there any more")
            if size > MOST_BYTES:
                raise Exhausted(Reason.STORE_FULL, "an image is too large to be brought here")
            await self._near.put_stream(path, self._chunks(path, size))

    async def _chunks(self, path: str, size: int) -> AsyncIterator[bytes]:
        for start in range(0, size, _CHUNK_BYTES):
            yield await self._objects.get_range(path, start, _CHUNK_BYTES)

    def close(self) -> None:
        """Delete everything that was brought."""
        if Path(self._folder.name).exists():
            self._folder.cleanup()
