"""Drives a server with an unmodified tritonclient: a line of JSON in is one measurement, a line of JSON out its result.

Run in its own environment, which knows nothing of gramserve: `python load.py EDGE`.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from typing import Any

import numpy as np
import tritonclient.grpc.aio as triton

TILES = 32
OUTPUT = "logits"


def requests(edge: int) -> list[list[triton.InferInput]]:
    """One tile each, uint8 [1, S, S, 3]: smooth noise, always the same."""
    rng = np.random.default_rng(0)
    prepared = []
    for _ in range(TILES):
        coarse = rng.integers(0, 256, (1, edge // 8, edge // 8, 3), np.uint8)
        tile = np.ascontiguousarray(coarse.repeat(8, axis=1).repeat(8, axis=2))
        given = triton.InferInput("tiles", list(tile.shape), "UINT8")
        given.set_data_from_numpy(tile)
        prepared.append([given])
    return prepared


async def wait(target: str, model: str, seconds: float) -> dict[str, Any]:
    """Until the model is ready; "error" says what the last try met."""
    until, error = time.monotonic() + seconds, "never answered"
    async with triton.InferenceServerClient(target) as client:
        while time.monotonic() < until:
            try:
                if await client.is_model_ready(model, client_timeout=5.0):
                    return {"ready": True}
                error = "not ready"
            except triton.InferenceServerException as failed:
                error = str(failed.status() or failed)
                if error == "StatusCode.UNIMPLEMENTED":
                    break
            await asyncio.sleep(0.2)
    return {"error": error}


async def drive(target: str, model: str, callers: int, seconds: float, tiles: list[list[triton.InferInput]]) -> Any:
    """`callers` callers with a connection each, one request after the other; the first of each is not counted."""
    latencies: list[float] = []
    clients = [triton.InferenceServerClient(target) for _ in range(callers)]
    firsts = await asyncio.gather(*(client.infer(model, tiles[0]) for client in clients))
    began = time.perf_counter()
    until = began + seconds

    async def call(number: int, client: triton.InferenceServerClient) -> None:
        count = number
        while time.perf_counter() < until:
            started = time.perf_counter()
            await client.infer(model, tiles[count % TILES])
            latencies.append(time.perf_counter() - started)
            count += 1

    await asyncio.gather(*(call(number, client) for number, client in enumerate(clients)))
    elapsed_s = time.perf_counter() - began
    for client in clients:
        await client.close()
    cuts = statistics.quantiles(latencies, n=100, method="inclusive") if len(latencies) > 1 else latencies * 99
    return {
        "images": len(latencies),
        "images_per_s": len(latencies) / elapsed_s,
        "p50_ms": 1000 * cuts[49],
        "p99_ms": 1000 * cuts[98],
        "logits": firsts[0].as_numpy(OUTPUT).ravel().tolist(),
    }


def main() -> None:
    """Until standard input ends."""
    tiles = requests(int(sys.argv[1]))
    for line in sys.stdin:
        task = json.loads(line)
        match task.pop("do"):
            case "wait":
                answer = asyncio.run(wait(**task))
            case _:
                answer = asyncio.run(drive(**task, tiles=tiles))
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
