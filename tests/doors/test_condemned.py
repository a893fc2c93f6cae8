"""Whoever is told that an image is known still has it afterwards, whatever a purge does at the same moment."""

from __future__ import annotations

from pathlib import Path

import pytest

from gramserve.errors import Unavailable
from gramserve.store.condemned import DELETING, condemn, execute, rescue
from gramserve.store.layout import condemned_path
from gramserve.store.objects import LocalObjects
from gramserve.store.uploads import Uploads

SHA256 = "a" * 64
IMAGE = f"slides/north/{SHA256}"


class Purged(LocalObjects):
    """A folder in which a condemned image is deleted right after somebody saw it."""

    async def size(self, path: str) -> int | None:
        found = await super().size(path)
        if path == IMAGE and found is not None:
            await execute(LocalObjects(self._root), IMAGE)
        return found


async def test_an_image_that_goes_between_the_look_at_it_and_its_rescue_is_not_told_of(tmp_path: Path) -> None:
    uploads = Uploads(Purged(tmp_path))
    for look in (uploads.status, uploads.open):
        await LocalObjects(tmp_path).create(IMAGE, b"pixels")
        await condemn(LocalObjects(tmp_path), IMAGE)
        with pytest.raises(Unavailable):
            await look("north", SHA256, IMAGE)
        assert await LocalObjects(tmp_path).size(IMAGE) is None
    assert not (await uploads.status("north", SHA256, IMAGE)).complete


async def test_an_image_is_deleted_by_one_and_not_again_when_it_was_sent_anew(tmp_path: Path) -> None:
    objects = LocalObjects(tmp_path)
    await objects.create(IMAGE, b"pixels")
    await objects.create(condemned_path(IMAGE), DELETING)  # by another gateway, now
    assert not await execute(objects, IMAGE)
    assert await objects.get(IMAGE) == b"pixels"
    with pytest.raises(Unavailable):
        await rescue(objects, IMAGE)
    assert await execute(objects, IMAGE, again=True)
    assert [info.path async for info in objects.list("")] == []
