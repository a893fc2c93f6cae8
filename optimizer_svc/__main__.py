"""Runs the optimizer service: `python -m optimizer_svc`; its settings come from the environment."""

from __future__ import annotations

import asyncio
import signal
import sys

from gramserve import log
from gramserve.errors import GramserveError
from gramserve.settings import load
from optimizer_svc.app import App
from optimizer_svc.settings import OptimizerSettings


async def serve(app: App) -> None:
    """Serve until SIGTERM or SIGINT, then stop in order."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    await app.start()
    await stopping.wait()
    await app.stop()


def main() -> int:
    """The exit status: 0 after a stop in order, 2 when it cannot start."""
    try:
        settings = load(OptimizerSettings)
        log.configure("optimizer", level=settings.log_level, style=settings.log_format)
        asyncio.run(serve(App(settings)))
    except GramserveError as error:
        sys.stderr.write(f"optimizer: {error.message} ({error.reason.value})\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
