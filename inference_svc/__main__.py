"""Runs a worker until it is told to stop: `python -m inference_svc`."""

from __future__ import annotations

import asyncio
import signal
import sys

from gramserve import log
from gramserve.errors import GramserveError
from gramserve.settings import load
from inference_svc.app import App
from inference_svc.settings import WorkerSettings


async def serve(settings: WorkerSettings) -> None:
    """Start, wait for SIGTERM, SIGINT or a request to drain, stop."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    app = App(settings)
    try:
        await app.start()
        waits = [asyncio.create_task(app.wait()), asyncio.create_task(told.wait())]
        done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        for wait in done:
            wait.result()
    finally:
        await app.stop()


def main() -> int:
    """0 after a graceful stop, 2 when the worker cannot start, with one line that says why."""
    try:
        settings = load(WorkerSettings)
        log.configure("worker", level=settings.log_level, style=settings.log_format)
        asyncio.run(serve(settings))
    except GramserveError as error:
        sys.stderr.write(f"gramserve worker: {error.message}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
