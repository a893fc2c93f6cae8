"""Images that nothing refers to any more: marked first, deleted later, and kept when somebody wants them meanwhile.

A mark is CONDEMNED, then either RESCUED by whoever is told that the image is known, or DELETING by whoever purges. Both
replace it only while it is unchanged, so exactly one of the two comes first: nobody is told of an image that goes.
"""

from __future__ import annotations

from gramserve.store import layout
from gramserve.store.faults import unavailable
from gramserve.store.objects import ObjectStore
from gramserve.store.paths import ObjectInfo

CONDEMNED, RESCUED, DELETING = b"condemned\n", b"rescued\n", b"deleting\n"
_TRIES = 10


async def rescue(objects: ObjectStore, path: str) -> None:
    """Keeps the object `path`, which was seen and of which somebody is about to be told.

    Raises Unavailable when it is just being deleted, or was since it was seen. Costs two looks where nothing is
    condemned.
    """
    mark = layout.condemned_path(path)
    for _ in range(_TRIES):
        tagged = await objects.get_tagged(mark)
        if tagged is None:
            if await objects.size(path) is None:  # it went since it was seen, and its mark after it
                break
            return
        if tagged[0] == RESCUED:
            return
        if tagged[0] != CONDEMNED:
            break
        if await objects.replace(mark, RESCUED, tagged[1]):
            return
    raise unavailable()


async def condemn(objects: ObjectStore, path: str) -> None:
    """Marks the object `path`: it goes at a later purge, if nothing refers to it until then."""
    await objects.create(layout.condemned_path(path), CONDEMNED)


def says_deleting(mark: ObjectInfo) -> bool:
    """Whether the deletion began, as a listing of marks shows: no two kinds of them have the same size."""
    return mark.size == len(DELETING)


async def execute(objects: ObjectStore, path: str, *, again: bool = False) -> bool:
    """Deletes the object `path` with its mark; False when it was rescued: then only the mark goes.

    False, too, when somebody else is deleting it: what is created under its name afterwards is not theirs to delete.
    `again`: their deletion broke off, so it is done for them.
    """
    mark = layout.condemned_path(path)
    tagged = await objects.get_tagged(mark)
    if tagged is None:
        return False
    said, tag = tagged
    if said == RESCUED:
        await objects.delete(mark)
        return False
    if not (again if said == DELETING else await objects.replace(mark, DELETING, tag)):
        return False
    await objects.delete(path)
    await objects.delete(mark)
    return True
