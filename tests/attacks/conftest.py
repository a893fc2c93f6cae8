"""What the doors are tested with serves for the attacks as well."""

from __future__ import annotations

from tests.doors.conftest import bench, session_redis, stack

__all__ = ["bench", "session_redis", "stack"]
