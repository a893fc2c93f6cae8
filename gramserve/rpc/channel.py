"""A gRPC channel as every client of ours opens it."""

from __future__ import annotations

import grpc.aio

from gramserve.rpc import options


def open_channel(target: str) -> grpc.aio.Channel:
    """A plain-text channel to `target` ("host:port"); close it after use."""
    return grpc.aio.insecure_channel(target, options=options.CLIENT)
