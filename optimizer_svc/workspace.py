"""The folder of one optimization: results of finished stages, found again by what they were made from."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DONE = "done.json"
BEGUN = "begun"
_ELAPSED = "elapsed.json"


@dataclass(frozen=True, slots=True)
class Kept:
    """What a stage left: JSON `facts` and `files` by name."""

    facts: dict[str, Any]
    files: dict[str, bytes]


class Workspace:
    """Stage results below `root`, which is made if absent.

    A result lies in a folder named after its stage and the SHA-256 of everything it was made from, so another
    checkpoint, split, setting or library version never finds it. done.json is written last, by a rename: a stage that
    was killed is not there. One process at a time.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(parents=True, exist_ok=True)

    def once(self, stage: str, key: Mapping[str, Any], make: Callable[[], Kept]) -> Kept:
        """The result of `stage` for the JSON-ready `key`: the kept one, else that of `make`, kept from now on."""
        folder = self._folder(stage, key)
        if (folder / DONE).is_file():
            return _read(folder)
        begun = self.begun(stage, key)
        folder.mkdir(exist_ok=True)
        _write(folder / BEGUN, str(begun + 1).encode())
        try:
            made = make()
        except BaseException:
            _write(folder / BEGUN, str(begun).encode())  # it ended in order
            raise
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name, data in made.files.items():
            _write(folder / name, data)
        _write(folder / f"{DONE}.part", json.dumps({"facts": made.facts, "files": sorted(made.files)}).encode())
        (folder / f"{DONE}.part").rename(folder / DONE)
        return made

    def begun(self, stage: str, key: Mapping[str, Any]) -> int:
        """How often `stage` began and neither finished nor failed: its process was killed, or crashed."""
        marker = self._folder(stage, key) / BEGUN
        return int(marker.read_bytes() or b"0") if marker.is_file() else 0

    def kept(self, stage: str, key: Mapping[str, Any]) -> Kept:
        """The result of a `stage` that is known to be finished."""
        return _read(self._folder(stage, key))

    def _folder(self, stage: str, key: Mapping[str, Any]) -> Path:
        return self._root / f"{stage}-{content_key(key)[:24]}"

    def read(self, name: str) -> bytes:
        """A file that `write` put beside the stages; empty where there is none."""
        path = self._root / name
        return path.read_bytes() if path.is_file() else b""

    @property
    def elapsed_s(self) -> float:
        """Seconds that all runs took so far, as they said last."""
        try:
            return float(json.loads(self.read(_ELAPSED)))
        except ValueError:  # none yet, or killed while it was written
            return 0.0

    def keep_elapsed(self, seconds: float) -> None:
        """Has the next run know what time this one took."""
        self.write(_ELAPSED, json.dumps(round(seconds, 1)).encode())

    def write(self, name: str, data: bytes) -> None:
        """Puts a file beside the stages, for people: a report outlives the run that made it."""
        _write(self._root / name, data)


def content_key(key: Mapping[str, Any]) -> str:
    """SHA-256 of canonical JSON."""
    return hashlib.sha256(json.dumps(key, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _read(folder: Path) -> Kept:
    done = json.loads((folder / DONE).read_bytes())
    return Kept(done["facts"], {name: (folder / name).read_bytes() for name in done["files"]})


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
