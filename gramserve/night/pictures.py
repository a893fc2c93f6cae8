"""Pictures of the evidence for the page: tiles of slides, cut by a confined child process."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from gramserve.errors import GramserveError
from gramserve.night.facts import Review
from gramserve.night.near import Near
from gramserve.night.wanted import MAX_PIXELS, Cut, Tile
from gramserve.sandbox import without_secrets
from gramserve.store.objects import open_store
from gramserve.store.paths import is_remote

TILES = 4
"""Tiles that are shown of a slide, at most."""
SLIDE_S = 60.0
MOST_DEATHS = 3
_ANSWER_BYTES = 2**24


def available() -> bool:
    """Whether pictures can be made here: the extra [worker] brings the decoder."""
    return importlib.util.find_spec("cv2") is not None


class Pictures:
    """Gives the evidence of slides as data URIs. Use it as a context: it owns a child process.

    A slide whose decoding kills the child, or takes a minute, has no pictures; after the third, no other has either.
    """

    def __init__(self, store_url: str, roots: Sequence[str] = ()) -> None:
        self._near = Near(open_store(store_url)) if is_remote(store_url) else None
        store = self._near.url if self._near is not None else store_url
        self._command = (sys.executable, "-m", "gramserve.night.child", str(os.getpid()), store, *roots)
        self._process: Process | None = None
        self._deaths = 0

    async def __aenter__(self) -> Pictures:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._end()
        if self._near is not None:
            self._near.close()

    async def of(self, review: Review) -> list[str | None]:
        """The best tiles of the findings and suspicions of a slide, at most four; None for each that has no picture."""
        tiles = evidence(review.call)
        if not tiles:
            return []
        answer = await self._ask(Cut(review.place.laboratory, review.images, tiles))
        return [None if tile is None else f"data:image/jpeg;base64,{tile}" for tile in answer]

    async def _ask(self, cut: Cut) -> Sequence[str | None]:
        nothing = [None] * len(cut.tiles)
        if self._deaths >= MOST_DEATHS or not available():
            return nothing
        if self._near is not None:
            try:
                await self._near.bring(cut)
            except GramserveError:
                return nothing
        try:
            if self._process is None or self._process.returncode is not None:
                self._process = await self._start()
            process = self._process
            assert process.stdin is not None
            assert process.stdout is not None
            async with asyncio.timeout(SLIDE_S):
                process.stdin.write(cut.to_json() + b"\n")
                await process.stdin.drain()
                answer: list[str | None] = json.loads(await process.stdout.readline())
        except (OSError, TimeoutError, ValueError):
            self._deaths += 1
            await self._end()
            return nothing
        return answer

    async def _start(self) -> Process:
        return await asyncio.create_subprocess_exec(
            *self._command,
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,  # whatever a library prints there could be part of an image
            limit=_ANSWER_BYTES,
            env=_environment(os.environ),
        )

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def evidence(call: Mapping[str, Any]) -> tuple[Tile, ...]:
    """The best tile of each finding and suspicion in turn, then their second ones, at most four, none twice."""
    of_each = [finding["evidence"] for finding in (*call.get("findings", ()), *call.get("suspected", ()))]
    ranked = [tiles[rank] for rank in range(TILES) for tiles in of_each if rank < len(tiles)]
    places = dict.fromkeys(
        Tile(tile["image_index"], tile["x"], tile["y"], tile["width"], tile["height"]) for tile in ranked
    )
    return tuple(places)[:TILES]


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    # OpenCV reads its own limit when it is imported, and it must not be lower than ours.
    own = {"OPENCV_IO_MAX_IMAGE_PIXELS": str(MAX_PIXELS), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return without_secrets(environ) | own
