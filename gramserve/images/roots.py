"""The folders below which files may be read, and whose they are."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

LABORATORY = "{laboratory}"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class Roots:
    """Absolute folders. One whose path holds "{laboratory}" is another folder for each laboratory, theirs alone."""

    def __init__(self, roots: Sequence[Path]) -> None:
        """Raises ValueError for a path that is not absolute."""
        if not all(root.is_absolute() for root in roots):
            raise ValueError("allowed roots must be absolute paths")
        self._own = [str(root) for root in roots if LABORATORY in str(root)]
        # A root may itself be a link, as volumes often are: both of its names count.
        shared = [str(root) for root in roots if LABORATORY not in str(root)]
        self._named = {os.path.normpath(root) for root in shared}
        self._real = {os.path.realpath(root) for root in shared}

    def named(self, laboratory: str) -> set[str]:
        """The paths by which the folders of `laboratory` may be called: those it was given and those they lead to."""
        own = self._of(laboratory)
        return self._named | self._real | {os.path.normpath(root) for root in own} | set(map(os.path.realpath, own))

    def real(self, laboratory: str) -> set[str]:
        """The paths of the folders of `laboratory`, all links followed."""
        return self._real | set(map(os.path.realpath, self._of(laboratory)))

    def _of(self, laboratory: str) -> list[str]:
        if not self._own or not _ID.fullmatch(laboratory):
            return []
        return [root.replace(LABORATORY, laboratory) for root in self._own]
