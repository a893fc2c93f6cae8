"""When a call that found no answer is made again: backoff that respects what the service asked for."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

import grpc
import grpc.aio

from gramserve.errors import Exhausted, GramserveError, Reason, Unavailable
from gramserve.rpc.status import from_rpc_error

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a client bears a service that cannot be reached or has no room.

    `call_s` bounds one call; `total_s` bounds how long calls that failed are repeated. Waits between them start at
    `first_wait_s`, double up to `longest_wait_s` and are jittered; a longer wait that the service asks for wins.
    """

    total_s: float = 60.0
    call_s: float = 30.0
    first_wait_s: float = 0.1
    longest_wait_s: float = 5.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    jitter: Callable[[], float] = random.random

    def backoff(self) -> Backoff:
        """The waits of one operation; its time starts now."""
        return Backoff(self)

    async def call(self, method: grpc.aio.UnaryUnaryMultiCallable[Asked, Answer], request: Asked) -> Answer:
        """The answer to `request` at the first attempt that finds one; only for calls that are safe to repeat.

        Raises GramserveError.
        """
        backoff = self.backoff()
        while True:
            try:
                return await method(request, timeout=self.call_s)
            except grpc.RpcError as error:
                await backoff.wait_after(from_rpc_error(error))


@dataclass(slots=True)
class Backoff:
    """How often one operation has failed in a row, and until when it is tried again."""

    patience: Patience
    failures: int = 0
    deadline: float = field(init=False)

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """The operation made progress: its patience starts anew."""
        self.failures = 0
        self.deadline = self.patience.clock() + self.patience.total_s

    async def wait_after(self, error: GramserveError) -> None:
        """Wait before the next attempt; raises `error` when another cannot help or patience has run out."""
        # An Exhausted without a wait is a limit that will not move: a message too large, for example.
        if not isinstance(error, Unavailable) and not (
            isinstance(error, Exhausted) and error.retry_after_s is not None
        ):
            raise error
        wait_s = min(self.patience.first_wait_s * 2**self.failures, self.patience.longest_wait_s)
        wait_s = max(wait_s * (0.5 + self.patience.jitter() / 2), error.retry_after_s or 0.0)
        if self.patience.clock() + wait_s > self.deadline:
            raise error
        self.failures += 1
        await self.patience.sleep(wait_s)


async def reach(channel: grpc.aio.Channel, timeout_s: float) -> None:
    """Waits until `channel` is connected. Raises Unavailable (SERVICE_UNAVAILABLE) after `timeout_s` seconds."""
    try:
        await asyncio.wait_for(channel.channel_ready(), timeout_s)
    except TimeoutError:
        raise Unavailable(Reason.SERVICE_UNAVAILABLE, "the service cannot be reached; is it running?") from None
