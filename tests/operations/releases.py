"""An older release of gramserve beside this one: its packages in a folder of their own, under a version of its own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tests.sources import PACKAGES, ROOT


class Release:
    """A copy of this release that calls itself `version`."""

    def __init__(self, folder: Path, version: str) -> None:
        self.folder = folder
        self.version = version
        ignored = shutil.ignore_patterns("__pycache__")
        for package in (*PACKAGES, "tests"):
            shutil.copytree(ROOT / package, folder / package, ignore=ignored)
        told = folder / f"gramserve-{version}.dist-info"
        told.mkdir()
        (told / "METADATA").write_text(f"Metadata-Version: 2.1\nName: gramserve\nVersion: {version}\n")

    def change(self, file: str, before: str, after: str) -> None:
        """Makes it differ from this release; fails when `before` is not in the file once."""
        path = self.folder / file
        text = path.read_text()
        assert text.count(before) == 1, f"{file} does not have {before!r} once"
        path.write_text(text.replace(before, after))

    @property
    def options(self) -> dict[str, Any]:
        """Options of `Site.service` that start a service of this release."""
        return {"launcher": ("env", "-C", str(self.folder)), "environment": {"PYTHONPATH": str(self.folder)}}
