"""What a process gives up before it opens what others made: network, new processes, files that it may write."""

from __future__ import annotations

from gramserve.sandbox.confine import PROTECTIONS, confine, missing, report

__all__ = ["PROTECTIONS", "confine", "missing", "report"]
