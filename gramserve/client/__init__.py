"""The Python client: batches of slides, models and optimizations over gRPC, safe to use across outages."""

from __future__ import annotations

from gramserve.client.gateway import GramserveClient
from gramserve.client.optimizer import TERMINAL_OPTIMIZATION_STATES, OptimizerClient
from gramserve.client.patience import Patience
from gramserve.client.watching import TERMINAL_BATCH_STATES, TERMINAL_SLIDE_STATES
from gramserve.tls.options import TlsOptions

__all__ = [
    "TERMINAL_BATCH_STATES",
    "TERMINAL_OPTIMIZATION_STATES",
    "TERMINAL_SLIDE_STATES",
    "GramserveClient",
    "OptimizerClient",
    "Patience",
    "TlsOptions",
]
