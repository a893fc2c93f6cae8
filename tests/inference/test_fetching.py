"""The next slide's bytes are read while the current slide runs, where reading waits, within bounds."""

from __future__ import annotations

import hashlib
import itertools
import os
import threading

import pytest

from gramserve.errors import NotFound, Reason, SlideFailed
from gramserve.images.open import ReferenceOpener
from gramserve.images.slidefile import SlideFile
from gramserve.store.faults import full
from gramserve.store.layout import reuse_path, slide_path
from gramserve.store.records import ImageRecord, OutcomeRecord, SlideState
from inference_svc.fetching import Fetcher
from inference_svc.protocol import RunSlide

LABORATORY = "lab-1"


class Shelf:
    """Objects in memory whose reads take `wait_s` on the test's clock; it remembers who read what."""

    def __init__(self, wait_s: float) -> None:
        self.now_s = 0.0
        self.reads: list[tuple[str, bool]] = []
        self.gate = threading.Event()
        self.gate.set()
        self._wait_s = wait_s
        self._objects: dict[str, bytes] = {}
        self._numbers = itertools.count(1)
        opener = ReferenceOpener(self, allowed_roots=(), max_bytes=2**30)
        self.fetcher = Fetcher(opener, self, most_bytes=2000, clock=lambda: self.now_s, stops=lambda: len(self.reads))

    def get_sync(self, path: str) -> bytes:
        main = threading.current_thread() is threading.main_thread()
        if not main:
            assert self.gate.wait(30)
        self.reads.append((path, main))
        self.now_s += self._wait_s
        if path not in self._objects:
            raise NotFound(Reason.REFERENCE_NOT_FOUND, "missing")
        return self._objects[path]

    def open_sync(self, path: str) -> int:
        handle = os.memfd_create("object")
        os.write(handle, self.get_sync(path))
        return handle

    def slide(self, *images: bytes, kept: bytes | None = None) -> RunSlide:
        records = []
        for data in images:
            sha256 = hashlib.sha256(data).hexdigest()
            self._objects[slide_path(LABORATORY, sha256)] = data
            records.append(ImageRecord(sha256=sha256))
        number = next(self._numbers)
        key = hashlib.sha256(str(number).encode()).hexdigest() if kept is not None else ""
        if kept:
            self._objects[reuse_path(LABORATORY, key)] = kept
        return RunSlide(number, LABORATORY, tuple(records), "models/m/versions/1", "digest", reuse=key)

    def run(self, slide: RunSlide) -> list[bytes | SlideFile]:
        return list(self.fetcher.images(slide))

    def read_by(self, slide: RunSlide) -> list[bool]:
        """For each read of the slide's images: whether the main thread did it."""
        paths = {slide_path(LABORATORY, image.sha256) for image in slide.images}
        return [main for path, main in self.reads if path in paths]


def slow() -> Shelf:
    shelf = Shelf(0.02)
    shelf.run(shelf.slide(b"first"))
    return shelf


def test_where_reading_waits_the_next_slide_is_read_ahead_once_and_in_order() -> None:
    shelf = slow()
    current, following = shelf.slide(b"now"), shelf.slide(b"a", b"b", b"c")
    shelf.fetcher.expect(following)
    shelf.fetcher.expect(following)
    assert shelf.run(current) == [b"now"]
    assert shelf.run(following) == [b"a", b"b", b"c"]
    assert shelf.read_by(current) == [True]
    assert shelf.read_by(following) == [False] * 3


def test_a_slide_that_was_read_ahead_keeps_its_bytes_while_the_one_after_it_is_read() -> None:
    shelf = slow()
    slides = [shelf.slide(f"slide {number}".encode()) for number in range(6)]
    for current, following in itertools.pairwise(slides):
        shelf.fetcher.expect(following)
        assert shelf.run(current) == [f"slide {current.id - 2}".encode()]
    assert [shelf.read_by(slide) for slide in slides[:-1]] == [[True]] + [[False]] * 4


def test_where_reading_does_not_wait_nothing_is_read_ahead() -> None:
    shelf = Shelf(0.0001)
    shelf.run(shelf.slide(b"first"))
    following = shelf.slide(b"next")
    shelf.fetcher.expect(following)
    assert shelf.run(following) == [b"next"]
    assert shelf.read_by(following) == [True]


def test_a_slide_that_was_taken_back_is_forgotten() -> None:
    shelf = slow()
    slides = [shelf.slide(f"slide {number}".encode()) for number in range(4)]
    for slide in slides:
        shelf.fetcher.expect(slide)
    assert shelf.run(slides[3]) == [b"slide 3"]
    assert shelf.run(slides[0]) == [b"slide 0"]
    assert shelf.read_by(slides[0])[-1]


def test_no_more_images_are_read_ahead_than_fit() -> None:
    shelf = slow()
    large = [bytes([number]) * 1000 for number in range(4)]
    following = shelf.slide(*large)
    shelf.fetcher.expect(following)
    assert shelf.run(following) == large
    assert shelf.read_by(following) == [False, False, True, True]


def test_what_is_wrong_with_an_image_is_raised_where_it_is_asked_for() -> None:
    shelf = slow()
    slide = shelf.slide(b"there")
    broken = RunSlide(99, LABORATORY, (*slide.images, ImageRecord(sha256="0" * 64)), "v", "d")
    shelf.fetcher.expect(broken)
    images = shelf.fetcher.images(broken)
    assert next(images) == b"there"
    with pytest.raises(SlideFailed) as failed:
        next(images)
    assert failed.value.reason is Reason.REFERENCE_NOT_FOUND


def test_of_a_slide_that_was_called_before_no_image_is_read() -> None:
    shelf = slow()
    outcome = OutcomeRecord(0, 0, SlideState.SUCCEEDED, call={"tile_count": 1}, artifact_digest="digest")
    known, unknown = shelf.slide(b"known", kept=outcome.to_json()), shelf.slide(b"unknown", kept=b"")
    for slide, expected in ((known, outcome), (unknown, None)):
        shelf.fetcher.expect(slide)
        assert shelf.fetcher.earlier(slide) == expected
    assert shelf.run(unknown) == [b"unknown"]
    assert shelf.read_by(known) == []
    assert shelf.read_by(unknown) == [False]


def test_an_earlier_call_for_which_there_is_no_room_is_no_reason_not_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child on S3 gets objects through files of its worker's temporary folder, which can be full."""
    shelf = Shelf(0.0)
    slide = shelf.slide(b"field", kept=b"{}")

    def no_room(_path: str) -> bytes:
        raise full()

    monkeypatch.setattr(shelf, "get_sync", no_room)
    assert shelf.fetcher.earlier(slide) is None
