"""The images of a slide as pictures to cut: fields in memory, and whole slides that stay in their files."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from typing import TypeAlias

from gramserve.errors import Reason, SlideFailed
from gramserve.images.limits import ImageLimits
from gramserve.images.open import ReferenceOpener
from gramserve.images.slidefile import Identity, SlideFile, identities, is_dicom
from gramserve.images.wholeslide import WholeSlide
from gramserve.images.wholeslide_open import open_dicom, open_tiff
from gramserve.runtime.preprocess import Picture, read_field
from gramserve.store.manifest import Preprocessing
from gramserve.store.records import ImageRecord

Opened: TypeAlias = Callable[[WholeSlide, Sequence[SlideFile]], None]


class Pictures:
    """Opens the images of slides. `clock` is seconds, for how long the stages take."""

    def __init__(
        self, opener: ReferenceOpener, limits: ImageLimits, *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._opener = opener
        self._limits = limits
        self._clock = clock

    def of(
        self,
        laboratory: str,
        images: Collection[ImageRecord],
        contract: Preprocessing,
        stages: dict[str, float],
        *,
        fetched: Iterator[bytes | SlideFile] | None = None,
        verified: Collection[Identity] = (),
        opened: Opened = lambda slide, files: None,
    ) -> Iterator[Picture]:
        """One after the other: memory holds one at a time. DICOM files of one series that follow each other are one.

        `fetched` are the images in their order as `ReferenceOpener.fetch` gives them, where somebody brings them.

        `opened` hears of every whole slide, with its files, before it is given out. A slide is closed when the next
        picture is asked for. `stages` ("fetch", "decode") are added to, seconds.
        Raises SlideFailed (SLIDE_UNREADABLE, retryable) where a slide's file changed meanwhile, and what
        `ReferenceOpener.fetch`, `read_field` and `gramserve.images.wholeslide_open` raise.
        """
        with ExitStack() as owned:
            series: list[SlideFile] = []
            for image in images:
                began = self._clock()
                found = next(fetched) if fetched else self._opener.fetch(laboratory, image, verified=verified)
                stages["fetch"] += self._clock() - began
                if isinstance(found, SlideFile):
                    owned.callback(found.close)
                    if is_dicom(found.head()):
                        series.append(found)
                        continue
                yield from _dicom(series, opened)
                series = []
                yield from self._picture(found, contract, stages, opened)
                del found
            yield from _dicom(series, opened)

    def _picture(
        self, found: bytes | SlideFile, contract: Preprocessing, stages: dict[str, float], opened: Opened
    ) -> Iterator[Picture]:
        if isinstance(found, SlideFile):
            slide = open_tiff(found, self._limits)
            if slide is not None:
                yield from _given_out(slide, [found], opened)
                return
            self._limits.check_bytes(found.size)
            found = found.read(self._limits.max_bytes)
        began = self._clock()
        field = read_field(found, self._limits, contract)
        stages["decode"] += self._clock() - began
        yield field


def changed() -> SlideFailed:
    """A whole slide that somebody wrote while it was read: part of what was seen was another slide."""
    return SlideFailed(
        Reason.SLIDE_UNREADABLE,
        "The whole slide changed while it was read; send it once it is complete.",
        retryable=True,
    )


def _dicom(files: list[SlideFile], opened: Opened) -> Iterator[WholeSlide]:
    for slide in open_dicom(files) if files else ():
        yield from _given_out(slide, files, opened)


def _given_out(slide: WholeSlide, files: Sequence[SlideFile], opened: Opened) -> Iterator[WholeSlide]:
    with ExitStack() as owned:
        owned.callback(slide.close)
        before = identities(files)
        opened(slide, files)
        yield slide
        if identities(files) != before:
            raise changed()
