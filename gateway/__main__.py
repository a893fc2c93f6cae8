"""`python -m gateway`: serves until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import signal
import sys

from gateway.app import App
from gateway.settings import GatewaySettings
from gramserve import log
from gramserve.errors import GramserveError
from gramserve.settings import load


async def _serve(settings: GatewaySettings) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    app = App(settings)
    await app.start()
    await stopped.wait()
    await app.stop()


def main() -> int:
    """Exit status: 0 after a signal, 2 when the gateway cannot start."""
    try:
        settings = load(GatewaySettings)
        log.configure("gateway", level=settings.log_level, style=settings.log_format)
        asyncio.run(_serve(settings))
    except GramserveError as error:
        sys.stderr.write(f"gateway: {error.message}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
