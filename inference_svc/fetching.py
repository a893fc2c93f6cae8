"""Brings the bytes of slides: those of the next one while the current one runs, where that saves waiting."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from gramserve.errors import Exhausted, NotFound, Unavailable
from gramserve.images.open import ByteSource, ReferenceOpener
from gramserve.images.slidefile import SlideFile
from gramserve.store.layout import reuse_path
from gramserve.store.records import ImageRecord, OutcomeRecord
from gramserve.store.reuse import read_reusable
from inference_svc.protocol import RunSlide

MOST_AHEAD_BYTES = 32 * 2**20

WORTH_S = 0.0005
"""Reads that wait less than this for a disk or a network are not worth a thread."""

_WEIGHT = 0.2
_LOOK_AGAIN = 16


class Fetcher:
    """Reads the images of one slide after the other; one slide is read ahead at a time.

    A thread reads ahead only where reading turned out to wait, which every sixteenth slide finds out again: bytes that
    are in memory anyway are read faster without one. No further image is read ahead once those of the slide take
    `most_bytes`. Errors of a read are raised where its bytes are asked for. `clock` is in seconds, and
    `stops` counts how often the calling thread had to wait: a busy CPU alone is no reason to read ahead.
    """

    def __init__(
        self,
        opener: ReferenceOpener,
        objects: ByteSource,
        *,
        most_bytes: int = MOST_AHEAD_BYTES,
        clock: Callable[[], float] = time.perf_counter,
        stops: Callable[[], int] = lambda: resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw,
    ) -> None:
        self._opener = opener
        self._objects = objects
        self._most_bytes = most_bytes
        self._clock = clock
        self._stops = stops
        self._wait_s = 0.0
        self._thread: ThreadPoolExecutor | None = None
        self._ahead: dict[int, _Ahead] = {}
        self._expected = 0

    def expect(self, slide: RunSlide) -> None:
        """Hear that `slide` is likely to be the next one."""
        if slide.id in self._ahead or self._wait_s < WORTH_S:
            return
        self._expected += 1
        if self._expected % _LOOK_AGAIN == 0:
            return
        self._thread = self._thread or ThreadPoolExecutor(1, thread_name_prefix="fetch")
        while len(self._ahead) > 1:  # the one that runs may be among them; all others were taken back
            self._ahead.pop(next(iter(self._ahead))).drop()
        earlier = self._thread.submit(self._read_earlier, slide) if slide.reuse else None
        read = [0]
        images = tuple(self._thread.submit(self._read_some, slide, image, earlier, read) for image in slide.images)
        self._ahead[slide.id] = _Ahead(earlier, images)

    def earlier(self, slide: RunSlide) -> OutcomeRecord | None:
        """The outcome of the same pixels, where one is kept; whatever is wrong with it, the slide is to be run."""
        if not slide.reuse:
            return None
        ahead = self._ahead.get(slide.id)
        if ahead is not None and ahead.earlier is not None:
            return ahead.earlier.result()
        return self._read_earlier(slide)

    def images(self, slide: RunSlide) -> Iterator[bytes | SlideFile]:
        """The images of a slide in order, one in memory unless they were read ahead; whole slides stay in their files.

        Raises what `ReferenceOpener.fetch` raises.
        """
        ahead = self._ahead.pop(slide.id, None)
        waiting = list(reversed(ahead.images)) if ahead is not None else []
        for image in slide.images:
            data = waiting.pop().result() if waiting else None
            yield self._read(slide, image) if data is None else data

    def _read_some(
        self, slide: RunSlide, image: ImageRecord, earlier: Future[OutcomeRecord | None] | None, read: list[int]
    ) -> bytes | None:
        """An image that is read ahead; None when it is not worth it. `read` counts the bytes of the slide."""
        if read[0] >= self._most_bytes or (earlier is not None and earlier.result() is not None):
            return None
        try:
            data = self._opener.read_field(slide.laboratory, image)
        except MemoryError:  # there may be enough once the current slide is done
            return None
        if data is None:
            return None
        read[0] += len(data)
        return data

    def _read(self, slide: RunSlide, image: ImageRecord) -> bytes | SlideFile:
        began, stops = self._clock(), self._stops()
        try:
            return self._opener.fetch(slide.laboratory, image)
        finally:
            waited = self._clock() - began if self._stops() > stops else 0.0
            self._wait_s += _WEIGHT * (waited - self._wait_s)

    def _read_earlier(self, slide: RunSlide) -> OutcomeRecord | None:
        try:
            data = self._objects.get_sync(reuse_path(slide.laboratory, slide.reuse))
        except (NotFound, Unavailable, Exhausted):
            return None
        return read_reusable(data, slide.digest)


@dataclass(frozen=True, slots=True)
class _Ahead:
    """What is read ahead for a slide."""

    earlier: Future[OutcomeRecord | None] | None
    images: tuple[Future[bytes | None], ...]

    def drop(self) -> None:
        """Nobody will ask for it."""
        for future in self.images:
            future.cancel()
