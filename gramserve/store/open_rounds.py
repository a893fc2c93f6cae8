"""Which rounds of which batches may have no end yet: a marker each, so that nobody reads all batches to find them."""

from __future__ import annotations

from collections.abc import AsyncIterator

from gramserve.store import layout
from gramserve.store.objects import ObjectStore


class OpenRounds:
    """Markers, written before a round is committed and removed after its end: every open round has one."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    async def mark(self, laboratory: str, batch: str, number: int) -> None:
        """Writes the marker; comes before the commit of the round."""
        await self._objects.create(layout.open_path(laboratory, batch, number), b"\n")

    async def unmark(self, laboratory: str, batch: str, number: int) -> None:
        """Removes the marker; comes after the end of the round."""
        await self._objects.delete(layout.open_path(laboratory, batch, number))

    async def marked(self, laboratory: str = "") -> AsyncIterator[tuple[str, str, int]]:
        """(laboratory, batch, round) of every marker, or of those of one laboratory, by name alone.

        A few of the rounds may have ended, or were never committed.
        """
        async for info in self._objects.list(f"open/{laboratory}"):
            folder, _, name = info.path.rpartition("/")
            batch, _, digits = name.rpartition(".")
            if batch and digits.isdecimal():  # one stray object must not stop the reconciler
                yield folder.removeprefix("open/"), batch, int(digits)

    async def unfinished(self) -> AsyncIterator[tuple[str, str, int]]:
        """(laboratory, batch, round) of every round that is committed and has no end."""
        async for laboratory, batch, number in self.marked():
            if await self._ended(laboratory, batch, number):
                await self.unmark(laboratory, batch, number)  # its finalizer died between record and marker
            elif await self._committed(laboratory, batch, number):
                yield laboratory, batch, number

    async def restore(self) -> int:
        """Writes the markers anew by looking at every batch, for a store that came from a backup; returns how many.

        A copy made while services run can have a batch without its marker. Costs about a millisecond for each batch.
        """
        restored = 0
        for laboratory in await self._objects.folders("batches"):
            for batch in await self._objects.folders(f"batches/{laboratory}"):
                number = 0
                while await self._ended(laboratory, batch, number):
                    number += 1
                if await self._committed(laboratory, batch, number):
                    await self.mark(laboratory, batch, number)
                    restored += 1
        return restored

    async def _ended(self, laboratory: str, batch: str, number: int) -> bool:
        return await self._objects.size(layout.final_path(laboratory, batch, number)) is not None

    async def _committed(self, laboratory: str, batch: str, number: int) -> bool:
        commit = layout.round_path(laboratory, batch, number) if number else layout.batch_path(laboratory, batch)
        return await self._objects.size(commit) is not None
