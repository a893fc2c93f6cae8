"""Slides from a JSON Lines file that the gateway may read."""

from __future__ import annotations

import asyncio

from google.protobuf import json_format

from gateway.sources import SlideChecker
from gramserve.errors import InvalidInput, Reason
from gramserve.images.open import ReferenceOpener
from gramserve.v1 import slide_batch_pb2

FIELD = "slide_batch.manifest_uri"


class ManifestFiles:
    """Reads files of at most `max_bytes` and `max_slides` lines; `opener` decides which files may be read at all."""

    def __init__(self, opener: ReferenceOpener, *, max_slides: int, max_bytes: int) -> None:
        self._opener = opener
        self._max_slides = max_slides
        self._max_bytes = max_bytes

    async def read(self, uri: str, laboratory: str = "") -> SlideChecker:
        """The slides of the file, one that `laboratory` may name, not yet judged: `check` them.

        Raises InvalidInput (REFERENCE_DENIED, NO_SLIDES, TOO_MANY_SLIDES, MESSAGE_TOO_LARGE) and NotFound.
        """
        # In a thread: a million lines take a minute, and everybody else's requests go on.
        return await asyncio.to_thread(self._read, uri, laboratory)

    def _read(self, uri: str, laboratory: str) -> SlideChecker:
        lines = self._opener.read_manifest(uri, max_bytes=self._max_bytes, laboratory=laboratory).splitlines()
        numbers = [number for number, line in enumerate(lines, 1) if line.strip()]
        if not numbers:
            raise _refused(Reason.NO_SLIDES, "has no lines; a batch needs at least one slide")
        if len(numbers) > self._max_slides:
            raise _refused(Reason.TOO_MANY_SLIDES, f"has more than {self._max_slides} lines; split the batch")
        checker = SlideChecker(lambda index: f"{FIELD} line {numbers[index]}")
        for index, number in enumerate(numbers):
            source = slide_batch_pb2.SlideSource()
            try:
                json_format.Parse(lines[number - 1], source)
            except (json_format.ParseError, UnicodeDecodeError, RecursionError):
                # The parser's own words repeat the line.
                source.Clear()
                checker.refuse(index, "", "is not a SlideSource in protobuf JSON")
            checker.add(source)
        return checker


def _refused(reason: Reason, what: str) -> InvalidInput:
    return InvalidInput(reason, f"{FIELD} {what}", violations=[(FIELD, what)])
