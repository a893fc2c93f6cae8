"""How far one Redis goes: slides and transitions per second of several client processes, and what a slide costs it.

Clients are processes of their own that submit, lease, renew, complete and finish through `gramserve.queue`, as gateways
and workers do; the slides themselves take no time. CPU is that of the server's main thread, in which all scripts run:
what a slide costs there bounds a Redis that has a core to itself, whatever else this machine does.
`python -m benchmarks.redis_limits` writes benchmarks/results/redis_limits.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import sys
import tempfile
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from benchmarks.queue_cost import open_batch
from benchmarks.report import show, spread, write
from gramserve.queue import EmbeddedRedis, Queue, Settlement, connect
from gramserve.queue.queue import CHUNK
from gramserve.tls.authority import Authority
from gramserve.tls.options import TlsOptions
from gramserve.tls.service import Tls

LANE = "slides"
BATCH_SLIDES = 200
CLIENTS = (1, 2, 4, 8)
TOGETHER = (1, 4, 16)
"""Slides that a worker leases, renews and completes in one call: about as many as it has children."""
WAITING = 1_000_000
SERVED_TOGETHER, SERVED_CLIENTS = 4, 4


async def work(url: str, client: str, together: int, seconds: float, keys: str = "") -> dict[str, float]:
    """One client: whole batches, one after the other, for `seconds`; slides that it ended, and how long it took.

    `keys` is a folder of `certificates`, for rediss://.
    """
    redis = connect(url, timeout_s=30.0, tls=Tls(TlsOptions(*certificates(keys))) if keys else None)
    queue = Queue(redis, LANE)
    began, slides = time.monotonic(), 0
    while time.monotonic() < began + seconds:
        batch = f"{client}/batch-{slides:09d}"
        await open_batch(queue, batch, BATCH_SLIDES)
        await queue.submit(batch, range(BATCH_SLIDES))
        ended = 0
        while ended < BATCH_SLIDES:  # of any batch: clients take one another's slides
            leases = await queue.lease(client, min(together, BATCH_SLIDES - ended), idle=True)
            await queue.renew(client, leases)
            await queue.complete_many(client, [Settlement(lease, "SUCCEEDED") for lease in leases])
            ended += len(leases)
        slides += ended
        for drained in await queue.drained():
            await queue.finish(drained, "SUCCEEDED", retention_slides=1_000)
    took_s = time.monotonic() - began
    await queue.aclose()
    await redis.aclose()
    return {"slides": slides, "took_s": took_s}


@asynccontextmanager
async def server() -> AsyncIterator[tuple[EmbeddedRedis, Redis]]:
    """A Redis as gramserve runs it: an append-only file, written every second."""
    with tempfile.TemporaryDirectory(prefix="gs-") as folder:
        made = EmbeddedRedis(Path(folder) / "redis")
        await made.start()
        redis = connect(made.url, timeout_s=30.0)
        try:
            yield made, redis
        finally:
            await redis.aclose()
            await made.stop()


def certificates(folder: str) -> tuple[str, str, str]:
    """Certificate, key and CA that `encrypted` made."""
    return f"{folder}/redis.pem", f"{folder}/redis.key", f"{folder}/ca.pem"


async def encrypted(redis: Redis, keys: Path) -> str:
    """Has the server speak TLS, too, and want certificates; its address. Raises RuntimeError where it cannot."""
    Authority.create(keys).issue("redis", hosts=["127.0.0.1"])
    names = ("tls-cert-file", "tls-key-file", "tls-ca-cert-file")
    words = [word for pair in zip(names, certificates(str(keys)), strict=True) for word in pair]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    try:
        await redis.execute_command("CONFIG", "SET", *words, "tls-port", port)
    except ResponseError as error:
        raise RuntimeError("the redis-server on PATH speaks no TLS") from error
    return f"rediss://127.0.0.1:{port}/0"


async def counted(redis: Redis) -> dict[str, float]:
    """Calls of transitions so far, the CPU seconds of the main thread and the size of the append-only file."""
    facts: dict[str, Any] = await redis.info("everything")
    calls = facts.get("cmdstat_evalsha", {}).get("calls", 0) + facts.get("cmdstat_eval", {}).get("calls", 0)
    cpu_s = facts.get("used_cpu_user_main_thread", 0.0) + facts.get("used_cpu_sys_main_thread", 0.0)
    return {"calls": calls, "cpu_s": cpu_s, "aof_bytes": facts["aof_current_size"]}


async def served(clients: int, together: int, tls: bool, seconds: float) -> dict[str, float]:
    """What so many clients get done in a fresh Redis, over a unix socket or by TLS over the loopback."""
    async with server() as (made, redis):
        words = ["--together", str(together), "--seconds", str(seconds)]
        with tempfile.TemporaryDirectory() as folder:
            keys = Path(folder) / "keys"
            words += ["--url", await encrypted(redis, keys), "--keys", str(keys)] if tls else ["--url", made.url]
            before = await counted(redis)
            said = await asyncio.gather(*(_client(f"c{number}", words) for number in range(clients)))
            after = await counted(redis)
    slides = sum(one["slides"] for one in said)
    took_s = max(one["took_s"] for one in said)
    cpu_s, calls = after["cpu_s"] - before["cpu_s"], after["calls"] - before["calls"]
    return {
        "slides": slides,
        "slides_per_s": slides / took_s,
        "calls_per_s": calls / took_s,
        "redis_cpu_share": cpu_s / took_s,
        "redis_us_per_slide": 1e6 * cpu_s / slides,
        "redis_us_per_call": 1e6 * cpu_s / calls,
        "slides_per_s_of_a_core": slides / cpu_s,
        "calls_per_s_of_a_core": calls / cpu_s,
        "aof_bytes_per_slide": (after["aof_bytes"] - before["aof_bytes"]) / slides,
    }


async def _client(name: str, words: Sequence[str]) -> dict[str, float]:
    command = (sys.executable, "-m", "benchmarks.redis_limits", "--client", name, *words)
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE)
    found: dict[str, float] = json.loads((await process.communicate())[0])
    return found


async def waiting(total: int) -> dict[str, float]:
    """A Redis in which `total` slides wait: memory, and how long taking them in kept it busy."""
    async with server() as (_made, redis):
        queue = Queue(redis, LANE)
        before_bytes, before = (await redis.info("memory"))["used_memory"], await counted(redis)
        began = time.monotonic()
        await open_batch(queue, "laboratory/night", total)
        for start in range(0, total, CHUNK):
            indices = range(start, min(start + CHUNK, total))
            await queue.submit("laboratory/night", indices, more=indices.stop < total)
        took_s, after = time.monotonic() - began, await counted(redis)
        depth = await queue.depth()
        if depth.ready_routine != total:
            raise RuntimeError(f"{depth.ready_routine} of {total} slides wait")
        used = (await redis.info("memory"))["used_memory"] - before_bytes
        await queue.aclose()
    return {
        "slides": total,
        "bytes_per_slide": used / total,
        "mib": used / 2**20,
        "submit_s": took_s,
        "redis_us_per_slide": 1e6 * (after["cpu_s"] - before["cpu_s"]) / total,
    }


async def measure(rounds: int, seconds: float, total: int) -> dict[str, Any]:
    """Everything, in turns, so that a busy moment of the machine meets all of them."""
    ways = [(clients, SERVED_TOGETHER, False) for clients in CLIENTS]
    ways += [(SERVED_CLIENTS, together, False) for together in TOGETHER if together != SERVED_TOGETHER]
    ways += [(SERVED_CLIENTS, together, True) for together in TOGETHER]
    found: dict[tuple[int, int, bool], list[dict[str, float]]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way in ways:
            found[way].append(await served(*way, seconds))
    return {
        "load_1_min": os.getloadavg()[0],
        "served": [
            {"clients": clients, "together": together, "tls": tls}
            | {name: spread([run[name] for run in runs]) for name in runs[0] if name != "slides"}
            for (clients, together, tls), runs in found.items()
        ],
        "waiting": await waiting(total),
    }


def print_tables(figures: dict[str, Any]) -> None:
    """The figures for people."""
    names = {
        "slides_per_s": "slides/s",
        "calls_per_s": "calls/s",
        "redis_cpu_share": "Redis busy",
        "redis_us_per_slide": "us a slide",
        "slides_per_s_of_a_core": "slides/s of a core",
        "aof_bytes_per_slide": "file, B a slide",
    }
    head = ("clients", "slides a call", "TLS", *names.values())
    rows: list[Sequence[str]] = [
        (str(row["clients"]), str(row["together"]), str(row["tls"]), *(f"{row[name]['median']:,.2f}" for name in names))
        for row in figures["served"]
    ]
    show("What one Redis served", head, rows)
    show("Slides that wait", tuple(figures["waiting"]), [[f"{value:,.1f}" for value in figures["waiting"].values()]])


def main() -> None:
    """Measure and write, or be one of the clients."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.redis_limits", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--waiting", type=int, default=WAITING, help="slides that wait together")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent / "results", help="folder for the JSON file"
    )
    parser.add_argument("--client", help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--keys", default="", help=argparse.SUPPRESS)
    parser.add_argument("--together", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        working = work(options.url, options.client, options.together, options.seconds, options.keys)
        print(json.dumps(asyncio.run(working)))
        return
    figures = asyncio.run(measure(options.rounds, options.seconds, options.waiting))
    print_tables(figures)
    print(f"written: {write('redis_limits', figures, options.output, packages=('redis', 'hiredis'))}")


if __name__ == "__main__":
    main()
