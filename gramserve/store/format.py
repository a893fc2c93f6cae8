"""How the store is laid out, as a number: a release does not touch a store of another layout."""

from __future__ import annotations

from dataclasses import dataclass

from gramserve.errors import Reason, Unsafe
from gramserve.store.codec import Record
from gramserve.store.objects import ObjectStore

FORMAT = 1
"""Changes when objects, their names or their fields change so that another release would misunderstand them.

Fields that others may ignore and new kinds of objects need no new number: see `gramserve.store.codec.Record`.
"""

PATH = "format.json"


@dataclass(frozen=True, slots=True)
class FormatRecord(Record):
    """The layout of a store."""

    format: int


async def check_format(objects: ObjectStore) -> None:
    """Marks a store that has no format as one of this release; raises Unsafe (UNSAFE_STORE) for that of another.

    Raises what reading and creating raise, RecordCorrupt too.
    """
    if await objects.create(PATH, FormatRecord(FORMAT).to_json()):
        return
    there = FormatRecord.from_json(await objects.get(PATH)).format
    if there != FORMAT:
        raise Unsafe(
            Reason.UNSAFE_STORE,
            f"this store was made by another release of gramserve (format {there}, here {FORMAT}): run that release",
            metadata={"format": str(there), "own_format": str(FORMAT)},
        )
