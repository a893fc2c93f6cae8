"""What a child does with a whole slide that is too large for one: divides it, reads parts of it, makes the call."""

from __future__ import annotations

import struct
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from gramserve.calls import Call
from gramserve.images.slidefile import Identity, SlideFile, identities
from gramserve.images.wholeslide import WholeSlide
from gramserve.images.wholeslide_grid import Plan
from gramserve.runtime.artifact import LoadedArtifact
from gramserve.runtime.preprocess import Picture, SlidePart
from gramserve.runtime.readings import Readings
from gramserve.runtime.tally import Tally
from gramserve.store.manifest import Preprocessing
from inference_svc.pictures import Opened, Pictures, changed
from inference_svc.protocol import Combine, Divide, Finished, Part, RunSlide, split_blobs

_COUNT, _IDENTITY = struct.Struct(">I"), struct.Struct(">4Q")


class TooLargeForOne(Exception):
    """A whole slide that shall be divided: into how many `shards`, and how, for `WholeSlides.read`."""

    def __init__(self, shards: int, plan: bytes) -> None:
        super().__init__()
        self.shards = shards
        self.plan = plan

    def divide(self, number: int) -> Divide:
        """What the worker hears about work `number`."""
        return Divide(number, self.shards, self.plan)


@dataclass(frozen=True, slots=True)
class _Open:
    """A slide that stays open, and the work that opened it."""

    work: RunSlide
    pictures: Iterator[Picture]
    slide: WholeSlide
    files: Sequence[SlideFile]
    identities: tuple[Identity, ...]


class WholeSlides:
    """Keeps the slide open of which it read a part last: the next part is probably one of the same."""

    def __init__(self, pictures: Pictures, *, shard_tiles: int) -> None:
        self._pictures = pictures
        self._shard_tiles = shard_tiles
        self._open: _Open | None = None
        self._reading = False

    def dividing(self, slide: RunSlide, contract: Preprocessing) -> Opened:
        """For `Pictures.of`: raises TooLargeForOne when all of `slide` is one whole slide of too many tiles."""

        def opened(whole: WholeSlide, files: Sequence[SlideFile]) -> None:
            if whole.images != len(slide.images):
                return
            plan = whole.plan(contract)
            if plan.tiles > self._shard_tiles:
                raise TooLargeForOne(-(-plan.tiles // self._shard_tiles), _pack(identities(files), plan))

        return opened

    def read(self, work: RunSlide, artifact: LoadedArtifact, *, between: Callable[[], None] = lambda: None) -> Part:
        """The readings of the part that `work` names; `between` is called before each batch of tiles.

        Raises what opening and reading it raise.
        """
        if self._reading:  # called from `between`: the slide that is being read must stay open
            other = WholeSlides(self._pictures, shard_tiles=self._shard_tiles)
            try:
                return other.read(work, artifact)
            finally:
                other.close()
        verified, plan = _unpack(work.blob)
        held = self._opened(work, artifact.contract.preprocessing, verified)
        if (held.slide.width, held.slide.height) != (plan.grid.width, plan.grid.height):
            raise changed()
        self._reading = True
        try:
            readings = artifact.read([held.slide], between=between, part=SlidePart(plan, work.shard, work.shards))
        finally:
            self._reading = False
        if identities(held.files) != held.identities:
            self.close()
            raise changed()
        return Part(work.id, len(readings), readings.inference_s, readings.to_bytes())

    def close(self) -> None:
        """Close what is open, unless it is being read."""
        if self._open is not None and not self._reading:
            cast("Generator[Picture, None, None]", self._open.pictures).close()
            self._open = None

    def _opened(self, work: RunSlide, contract: Preprocessing, verified: tuple[Identity, ...]) -> _Open:
        if self._open is not None:
            last = self._open.work
            if (last.laboratory, last.images, last.blob) == (work.laboratory, work.images, work.blob):
                return self._open
            self.close()
        given: list[SlideFile] = []

        def opened(_: WholeSlide, files: Sequence[SlideFile]) -> None:
            # Copies of a stored object are other files, but have its digest.
            if identities(files) != verified and not all(image.sha256 for image in work.images):
                raise changed()
            given.extend(files)

        stages = {"fetch": 0.0, "decode": 0.0}
        pictures = self._pictures.of(work.laboratory, work.images, contract, stages, verified=verified, opened=opened)
        first = next(pictures, None)
        if not isinstance(first, WholeSlide):
            raise changed()
        self._open = _Open(work, pictures, first, given, identities(given))
        return self._open


def combine(work: Combine, artifact: LoadedArtifact) -> Finished:
    """The call of a slide from the readings of all its parts."""
    readings = Readings.joined(split_blobs(work.blob))
    judged = artifact.judge(readings, specimen_type=work.specimen_type)
    return finished(work.id, artifact, readings, judged, {"infer": readings.inference_s})


def finished(
    number: int, artifact: LoadedArtifact, readings: Readings, judged: tuple[Call, Tally], stages: dict[str, float]
) -> Finished:
    """What the worker hears when work `number` judged a slide."""
    call, counts = judged
    return Finished(
        id=number,
        call=call.to_json(),
        tiles=len(readings),
        inference_s=readings.inference_s,
        stages=stages,
        engine=artifact.engine.description,
        digest=artifact.digest,
        tile_labels=counts.labels,
        tile_bands=counts.bands,
    )


def _pack(verified: tuple[Identity, ...], plan: Plan) -> bytes:
    return b"".join((_COUNT.pack(len(verified)), *(_IDENTITY.pack(*one) for one in verified), plan.to_bytes()))


def _unpack(blob: bytes) -> tuple[tuple[Identity, ...], Plan]:
    (count,) = _COUNT.unpack_from(blob)
    end = _COUNT.size + count * _IDENTITY.size
    verified = tuple(cast("Identity", one) for one in _IDENTITY.iter_unpack(blob[_COUNT.size : end]))
    return verified, Plan.from_bytes(blob[end:])
