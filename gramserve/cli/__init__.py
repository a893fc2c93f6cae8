"""The command line: one command or group of commands per file."""

from __future__ import annotations

from gramserve.cli.app import app

__all__ = ["app"]
