"""Writes a report each morning: `python -m gramserve.night`; its settings come from the environment."""

from __future__ import annotations

import asyncio
import signal
import sys
import time

from gramserve import log
from gramserve.errors import GramserveError
from gramserve.metrics import Metrics
from gramserve.night.mornings import Mornings
from gramserve.night.settings import ReportSettings
from gramserve.settings import load
from gramserve.tls.service import Tls


async def serve(settings: ReportSettings) -> None:
    """Work until SIGTERM or SIGINT. Raises Unsafe when the metrics cannot be shown."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    metrics, tls = Metrics(), Tls.of(settings)
    mornings = Mornings(settings, metrics, time.time)
    if settings.metrics_port >= 0:
        metrics.serve(settings.metrics_host, settings.metrics_port, tls=tls)
    watching = asyncio.create_task(tls.watch(metrics))
    log.get().info("ready", port=0)
    await mornings.run(stop)
    watching.cancel()
    metrics.close()


def main() -> int:
    """The exit status: 0 after a stop, 2 when it cannot start."""
    try:
        settings = load(ReportSettings)
        log.configure("report", level=settings.log_level, style=settings.log_format)
        asyncio.run(serve(settings))
    except GramserveError as error:
        sys.stderr.write(f"report: {error.message} ({error.reason.value})\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
