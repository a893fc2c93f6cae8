"""The peers: what each is, which package gives its version, and what its environment variables are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

BARE = "bare"


@dataclass(frozen=True, slots=True)
class Peer:
    """A server in `benchmarks/peers/{folder}`; `package` is the one that it is measured for."""

    folder: str
    title: str
    package: str
    variables: Mapping[str, str] = field(default_factory=dict)


PEERS = (
    Peer(BARE, "bare grpc.aio + onnxruntime", "onnxruntime"),
    Peer("kserve", "KServe", "kserve"),
    Peer("mlserver", "MLServer", "mlserver"),
    Peer(
        "rayserve",
        "Ray Serve",
        "ray",
        {"RAY_USAGE_STATS_ENABLED": "0", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"},
    ),
    Peer("pytriton", "PyTriton", "nvidia-pytriton"),
)
