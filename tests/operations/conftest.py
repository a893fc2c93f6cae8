"""The site under test is that of the faults."""

from __future__ import annotations

from tests.faults.conftest import session_redis, site

__all__ = ["session_redis", "site"]
