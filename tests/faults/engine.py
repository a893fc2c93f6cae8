"""An engine whose behaviour a slide chooses by a word inside its first image.

A child calls `obey` with each slide, see docs/worker.md. What the word says happens in the middle of the slide: its
model is loaded, its image decoded, its tiles are before the engine. A word may be followed by a number: it holds for
the first so many runs of that image, later ones are well. The words:

ok, slow (one second), hold (until the test lets go), raise, segfault, abort, exit, exhaust (allocates without end),
spin (computes without end and holds the interpreter's lock).
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import time
import zlib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from inference_svc.protocol import RunShadow, RunSlide
from tests.artifacts import coloured_file
from tests.faults.points import FOLDER, reach

STORE = "GRAMSERVE_STORE_URL"
_WORD = re.compile(rb"tEXtfault\0([a-z]+) (\d+) ")


def picture(word: str = "ok", serial: int = 0, *, times: int = 0, label: str = "GNR") -> bytes:
    """A field like no other (`serial`), as a PNG with the word in it; `times` 0 is each time."""
    png = coloured_file(label)
    body = b"tEXtfault\0" + f"{word} {times} {serial}".encode()
    chunk = (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    return png[:-12] + chunk + png[-12:]


def digest_of(data: bytes) -> str:
    """The name of a picture in `runs` and `let_go`."""
    return hashlib.sha256(data).hexdigest()


def runs(folder: Path, data: bytes) -> list[int]:
    """The process ids of the children that began this picture, in order."""
    path = folder / f"run-{digest_of(data)}"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def let_go(folder: Path, data: bytes) -> None:
    """Children that hold this picture go on, now and later."""
    (folder / f"go-{digest_of(data)}").touch()


def obey(work: RunSlide | RunShadow) -> None:
    """The hook of a child."""
    if not _Faulty.installed:
        _Faulty.install()
    reach("child.begun")
    _Faulty.word, _Faulty.go = "ok", None
    if isinstance(work, RunSlide):
        _Faulty.take(work)


class _Faulty:
    """What the slide that runs now asks for; the engine of this child does it."""

    installed = False
    word = "ok"
    go: Path | None = None

    @classmethod
    def install(cls) -> None:
        # Only here, and not when the parent or a test imports this module: numpy comes with them.
        from gramserve.runtime.artifact import Classifier
        from gramserve.runtime.engines.onnxruntime_engine import OnnxRuntimeEngine

        read, run = Classifier.read, OnnxRuntimeEngine.run
        reading = False

        def faulty_read(self: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal reading
            reading = True
            try:
                return read(self, *args, **kwargs)
            finally:
                reading = False
                reach("child.read")

        def faulty_run(self: Any, tiles: Any) -> Any:
            if reading:  # golden vectors go through the engine too, and are none of a slide's
                reach("child.middle")
                word, cls.word = cls.word, "ok"  # once in each run, not with each batch of tiles
                misbehave(word, cls.go)
            return run(self, tiles)

        Classifier.read = faulty_read  # type: ignore[method-assign]
        OnnxRuntimeEngine.run = faulty_run  # type: ignore[method-assign]
        cls.installed = True

    @classmethod
    def take(cls, work: RunSlide) -> None:
        image = work.images[0]
        if image.sha256:
            path = Path(os.environ[STORE]) / "slides" / work.laboratory / image.sha256
        else:
            path = Path(urlsplit(image.uri).path)
        try:
            data = path.read_bytes()
        except OSError:
            return
        if (found := _WORD.search(data)) is None:
            return
        folder = Path(os.environ[FOLDER])
        times, before = int(found[2]), len(runs(folder, data))
        with (folder / f"run-{digest_of(data)}").open("a") as file:
            file.write(f"{os.getpid()}\n")
        if not times or before < times:
            cls.word = found[1].decode()
            cls.go = folder / f"go-{digest_of(data)}"


def misbehave(word: str, go: Path | None) -> None:
    """Do what the word says."""
    match word:
        case "ok":
            return
        case "slow":
            time.sleep(1.0)
        case "hold":
            while go is not None and not go.exists():
                time.sleep(0.01)
        case "raise":
            from gramserve.runtime.engines.engine import engine_failed

            raise engine_failed()
        case "segfault":
            ctypes.string_at(0)
        case "abort":
            os.abort()
        case "exit":
            os._exit(0)
        case "exhaust":
            kept = []
            while True:
                kept.append(bytearray(b"x" * (16 << 20)))
        case "spin":
            re.match(r"(a+)+$", "a" * 64 + "b")  # would take longer than anybody lives
        case other:
            raise AssertionError(other)
