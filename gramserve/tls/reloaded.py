"""What is made of files and made again when they change."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from gramserve import log
from gramserve.errors import GramserveError

T = TypeVar("T")


class Reloaded(Generic[T]):
    """`make()`, made anew once one of `files` has changed; while that fails, what was made before stays.

    May be asked from any thread. Making it raises what `make` raises. A change is logged, unless `quiet`.
    `first` is what was made elsewhere, and stays until the files can be used.
    """

    def __init__(
        self, what: str, files: Sequence[str], make: Callable[[], T], *, quiet: bool = False, first: T | None = None
    ) -> None:
        self._what = what
        self._quiet = quiet
        self._files = tuple(Path(file) for file in files if file)
        self._make = make
        self._lock = threading.Lock()
        self._seen = self._look() if first is None else ()
        self._current = make() if first is None else first
        self.refused = ""
        """Why the files as they are now cannot be used; "" while they can."""

    def current(self) -> T:
        """What the files gave when they were last fit for use. Costs a `stat` of each file."""
        with self._lock:
            seen = self._look()
            if seen != self._seen:
                self._reload(seen)
            return self._current

    def _reload(self, seen: tuple[object, ...]) -> None:
        self._seen = seen
        try:
            self._current = self._make()
        except GramserveError as error:
            self.refused = error.message
        else:
            self.refused = ""
        if self._quiet:
            return
        if self.refused:
            log.get().error("changed files are refused, those before stay in use", what=self._what, why=self.refused)
        else:
            log.get().info("changed files are in use", what=self._what)

    def _look(self) -> tuple[object, ...]:
        """Changes whenever one of the files does: also when another one was moved to its place, or a link."""
        found: list[object] = []
        for file in self._files:
            try:
                status = file.stat()
            except OSError:
                found.append(None)
            else:
                found.append((status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
        return tuple(found)
