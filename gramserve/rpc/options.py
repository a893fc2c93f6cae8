"""The one table of gRPC channel options: client and server must agree, or pings end in `too_many_pings`."""

from __future__ import annotations

MAX_MESSAGE_BYTES = 32 * 1024 * 1024
"""Largest request that is answered on its merits; a larger one is refused with MESSAGE_TOO_LARGE."""

# The transport lets somewhat more through, so that a request over the limit still gets its typed error.
_TRANSPORT_BYTES = 2 * MAX_MESSAGE_BYTES

_BOTH: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", _TRANSPORT_BYTES),
    ("grpc.max_send_message_length", _TRANSPORT_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
]

CLIENT: list[tuple[str, int]] = [
    *_BOTH,
    ("grpc.keepalive_permit_without_calls", 1),
    # A restarted gateway is found again within a second.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # Retrying is decided by our client, which knows what is idempotent.
    ("grpc.enable_retries", 0),
]

SERVER: list[tuple[str, int]] = [
    *_BOTH,
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # A connection that does not say within seconds that it speaks HTTP/2 is closed, and so is one without calls.
    ("grpc.server_handshake_timeout_ms", 5_000),
    ("grpc.max_connection_idle_ms", 900_000),
    # After an hour a client connects anew, to whichever server there is; what runs then has another hour.
    ("grpc.max_connection_age_ms", 3_600_000),
    ("grpc.max_connection_age_grace_ms", 3_600_000),
    # Headers: the first is where refusing begins, the second is never passed.
    ("grpc.max_metadata_size", 8_192),
    ("grpc.absolute_max_metadata_size", 16_384),
    # Two services must never share a port silently.
    ("grpc.so_reuseport", 0),
]
