"""Everything on one machine: the processes behind `gramserve up`."""

from __future__ import annotations

from gramserve.local.stack import Stack, StackOptions

__all__ = ["Stack", "StackOptions"]
