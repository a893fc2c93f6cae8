"""How the store is laid out, as a number: a release does not touch a store of another layout."""

from __future__ import annotations

from dataclasses import dataclass

from gramserve.errors import InvalidInput, Reason, Unsafe
from gramserve.store.codec import Record
from gramserve.store.objects import ObjectMissing, ObjectStore

FORMAT = 1
"""Changes when objects, their names or their fields change so that another release would misunderstand them.

Fields that others may ignore and new kinds of objects need no new number: see `gramserve.store.codec.Record`.
"""

PATH = "format.json"

KINDS = frozenset({"audit", "batches", "checkpoints", "models", "optimizations", "requests", "slides", "tombstones"})
"""The folders of a store that are worth keeping; docs/store.md says what lies in them."""


@dataclass(frozen=True, slots=True)
class FormatRecord(Record):
    """The layout of a store; whether it is a copy of another one that no service has used, and still being copied.

    `was_whole`: it is unfinished, but as a copy that was finished once and was being brought up to date.
    """

    format: int
    copy: bool = False
    unfinished: bool = False
    was_whole: bool = False

    @property
    def usable(self) -> bool:
        """Whether everything in it has what it needs; of an unfinished copy another copy, finished, is a store."""
        return not self.unfinished or self.was_whole


async def read_format(objects: ObjectStore) -> FormatRecord:
    """What a store says of itself; one that says nothing is of the first format. Raises RecordCorrupt too."""
    try:
        return FormatRecord.from_json(await objects.get(PATH))
    except ObjectMissing:
        return FormatRecord(1)


async def require_store(objects: ObjectStore, url: str) -> None:
    """Raises InvalidInput when no store is at `url`: it was mistyped, is not mounted, or lies a folder below."""
    if not KINDS.isdisjoint(await objects.folders("")):
        return
    try:
        await objects.get(PATH)
    except ObjectMissing:
        what = f"nothing is stored in {url}: is it mistyped, or not mounted? That of `gramserve up` is DATA_DIR/store"
        raise InvalidInput(Reason.INVALID_SETTINGS, what, violations=[("store", what)]) from None


async def put_format(objects: ObjectStore, record: FormatRecord) -> None:
    """Has a store say this of itself."""
    await objects.put(PATH, record.to_json())


async def check_format(objects: ObjectStore) -> None:
    """Marks a new store with the format of this release, and a copy as one that is in use from now on.

    Raises Unsafe (UNSAFE_STORE) for the store of another release and for a copy that was not finished, and what
    reading and writing raise.
    """
    own = FormatRecord(FORMAT)
    if await objects.create(PATH, own.to_json()):
        return
    there = await read_format(objects)
    if there.format != FORMAT:
        raise Unsafe(
            Reason.UNSAFE_STORE,
            f"this store was made by another release of gramserve (format {there.format}, here {FORMAT}): run that one",
            metadata={"format": str(there.format), "own_format": str(FORMAT)},
        )
    if there.unfinished:
        instead = ", or restore it by `gramserve backup` into an empty place" if there.was_whole else ""
        raise Unsafe(
            Reason.UNSAFE_STORE, f"this store is a copy that was not finished: repeat `gramserve backup`{instead}"
        )
    if there.copy:
        await put_format(objects, own)
