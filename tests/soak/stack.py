"""The stack of a soak: `gramserve up` with two workers, and a second gateway on the same store and Redis."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil

from gramserve.local.service import Service, ServiceSpec
from gramserve.queue import Queue, connect
from gramserve.store.objects import open_store
from gramserve.store.registry import Registry
from tests.artifacts import publish_tiny
from tests.e2e.running import Up
from tests.soak import behaviour

LEASE_S = 3.0
PROGRAMS = {
    "gateway": "gateway",
    "inference_svc": "worker",
    "inference_svc.child": "child",
}
READY_S = 300.0


@dataclass(slots=True)
class Stack:
    """What runs. The first gateway and the first worker, the *witnesses*, are never killed: their memory is watched
    over the whole night. `redis` is a client beside the services, `queue` their lane seen through it."""

    up: Up
    second_gateway: Service
    redis: Any
    queue: Queue
    witnesses: dict[str, int]

    @property
    def store(self) -> str:
        return str(self.up.folder / "store")

    @property
    def gateways(self) -> tuple[str, str]:
        """Where the two gateways listen."""
        return self.up.address("gateway"), f"127.0.0.1:{self.second_gateway.port}"

    def processes(self) -> list[tuple[str, psutil.Process]]:
        """(role, process) of everything that runs now."""
        found = [("up", psutil.Process(self.up.process.pid))]
        below = self.up.descendants()
        if self.second_gateway.pid is not None:
            below.append(psutil.Process(self.second_gateway.pid))
        for process in below:
            try:
                found.append((role_of(process.cmdline()), process))
            except psutil.Error:  # it just ended
                continue
        return [(role, process) for role, process in found if role]

    def killable(self, role: str) -> list[psutil.Process]:
        """The processes of a role that may be killed."""
        spared = set(self.witnesses.values())
        return [process for name, process in self.processes() if name == role and process.pid not in spared]

    def logs(self) -> list[Path]:
        return sorted((self.up.folder / "logs").glob("*.log"))


def role_of(words: list[str]) -> str:
    """gateway, worker, child or redis; "" for the launchers and helpers of Python."""
    if any("redis.sock" in word or "redis-server" in word for word in words[:1]):
        return "redis"
    if "-m" in words and "-S" not in words:
        return PROGRAMS.get(words[words.index("-m") + 1], "")
    return ""


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Stack]:
    """The stack in `folder`, ready; stopped in the order of its house at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "behaviours").mkdir(exist_ok=True)
    data = folder / "up"
    shared = {
        "GRAMSERVE_LEASE_S": str(LEASE_S),
        "GRAMSERVE_TEST_CHILD_HOOK": "tests.soak.behaviour:act",
        behaviour.FOLDER: str(folder / "behaviours"),
    }
    worker = {
        "GRAMSERVE_WORKER_SLIDE_TIMEOUT_S": "12",
        "GRAMSERVE_WORKER_CHILD_MEMORY_BYTES": str(2**30),
        "GRAMSERVE_WORKER_RETRY_DELAY_S": "0.2",
        "GRAMSERVE_WORKER_STOP_GRACE_S": "5",
    }
    await publish_tiny(Registry(open_store(str(data / "store"))))
    up = Up(data, "--no-optimizer", "--workers", "2", "--children", "2", environment=shared | worker)
    redis_url = f"unix://{quote(str(data / 'redis' / 'redis.sock'))}"
    gateway = ServiceSpec(
        "gateway-2",
        "gateway",
        {
            **shared,
            "GRAMSERVE_STORE_URL": str(data / "store"),
            "GRAMSERVE_REDIS_URL": redis_url,
            "GRAMSERVE_GATEWAY_LISTEN": "127.0.0.1:{port}",
            "GRAMSERVE_GATEWAY_METRICS_PORT": "-1",
            "MALLOC_ARENA_MAX": "2",
        },
    )
    keeper: asyncio.Task[None] | None = None
    second: Service | None = None
    redis: Any = None
    try:
        await up.ready()
        second = Service(gateway, data / "logs" / "gateway-2.log", lambda line: None)
        await second.start()
        keeper = asyncio.create_task(second.keep())
        redis = connect(redis_url)
        stack = Stack(up, second, redis, Queue(redis, "slides", lease_s=LEASE_S), {})
        stack.witnesses = _first_ones(stack, os.getpid())
        yield stack
    finally:
        if second is not None:
            await second.stop(30.0)
        if keeper is not None:
            keeper.cancel()
        if redis is not None:
            await redis.aclose()
        await up.stop()


def _first_ones(stack: Stack, own: int) -> dict[str, int]:
    """The oldest gateway and the oldest worker below `gramserve up`."""
    found: dict[str, int] = {}
    for role, process in sorted(stack.processes(), key=lambda one: one[1].create_time()):
        if role in ("gateway", "worker") and process.ppid() != own:
            found.setdefault(role, process.pid)
    return found
