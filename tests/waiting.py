"""Waiting for a condition instead of sleeping for a guess."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

T = TypeVar("T")

HANGS_S = 120.0
"""A guard against hanging, and nothing else: far longer than what works takes on the busiest machine."""


@overload
async def until(predicate: Callable[[], Awaitable[T]], timeout_s: float = HANGS_S, what: str = "") -> T: ...
@overload
async def until(predicate: Callable[[], T], timeout_s: float = HANGS_S, what: str = "") -> T: ...
async def until(predicate: Callable[[], Any], timeout_s: float = HANGS_S, what: str = "") -> Any:
    """The first truthy value of `predicate`; fails the test after `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = predicate()
        value = await found if inspect.isawaitable(found) else found
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s} s: {what or inspect.getsource(predicate).strip()}")
        await asyncio.sleep(0.01)
