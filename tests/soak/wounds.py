"""What goes wrong in the night: each wound is one thing that can happen to a machine, at a moment of chance."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
from collections.abc import Awaitable, Callable

import psutil

from tests.soak.stack import LEASE_S, Stack

Wound = Callable[[Stack, random.Random], Awaitable[bool]]
"""Does it and says whether there was anything to wound."""


def hit(role: str, number: signal.Signals) -> Wound:
    """A signal to a process of `role` chosen by chance."""

    async def wound(stack: Stack, dice: random.Random) -> bool:
        found = stack.killable(role)
        if not found:
            return False
        try:
            dice.choice(found).send_signal(number)
        except psutil.NoSuchProcess:
            return False
        return True

    return wound


def freeze(role: str, shortest_s: float, longest_s: float) -> Wound:
    """SIGSTOP to a process of `role`, witness or not, and SIGCONT after a while: it goes on as if nothing had been."""

    async def wound(stack: Stack, dice: random.Random) -> bool:
        found = [process for name, process in stack.processes() if name == role]
        if not found:
            return False
        process = dice.choice(found)
        try:
            process.suspend()
            await asyncio.sleep(dice.uniform(shortest_s, longest_s))
        except psutil.NoSuchProcess:
            return False
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()
        return True

    return wound


async def flush(stack: Stack, _dice: random.Random) -> bool:
    """FLUSHALL."""
    await stack.redis.flushall()
    return True


WOUNDS: dict[str, tuple[float, Wound]] = {
    "kill -9 of a child": (4, hit("child", signal.SIGKILL)),
    "kill -9 of a worker": (2, hit("worker", signal.SIGKILL)),
    "SIGTERM of a worker": (2, hit("worker", signal.SIGTERM)),
    "a worker stopped for two leases": (1.5, freeze("worker", 2 * LEASE_S, 2.5 * LEASE_S)),
    "a child stopped": (1, freeze("child", 0.5, 2 * LEASE_S)),
    "kill -9 of a gateway": (2, hit("gateway", signal.SIGKILL)),
    "SIGTERM of a gateway": (1, hit("gateway", signal.SIGTERM)),
    "a gateway stopped": (1, freeze("gateway", 0.5, 2 * LEASE_S)),
    "kill -9 of Redis": (1.5, hit("redis", signal.SIGKILL)),
    "Redis stopped": (1, freeze("redis", 0.5, 2 * LEASE_S)),
    "FLUSHALL": (1, flush),
}
"""Name -> (how often, against the others; what happens)."""


async def inflict(stack: Stack, dice: random.Random) -> str:
    """One wound by chance; its name, "" when there was nothing to wound or Redis could not be asked."""
    names = list(WOUNDS)
    (name,) = dice.choices(names, [WOUNDS[name][0] for name in names])
    try:
        return name if await WOUNDS[name][1](stack, dice) else ""
    except Exception:  # Redis is away at this moment: there is nothing to flush
        return ""
