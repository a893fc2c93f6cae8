"""What the children of a worker do before each slide in these tests."""

from __future__ import annotations

import time


def linger(_message: object) -> None:
    """A slide takes a while, so that processes can die in the middle of a batch."""
    time.sleep(0.08)
