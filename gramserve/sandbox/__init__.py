"""What a process gives up before it opens what others made: network, new processes, files that it may write."""

from __future__ import annotations

from gramserve.sandbox.confine import PROTECTIONS, confine, missing, report
from gramserve.sandbox.environment import without_secrets
from gramserve.sandbox.limits import die_with, limit

__all__ = ["PROTECTIONS", "confine", "die_with", "limit", "missing", "report", "without_secrets"]
