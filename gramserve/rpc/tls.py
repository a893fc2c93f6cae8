"""TLS as gRPC wants it: credentials of servers that change without a restart, credentials of channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import grpc

from gramserve.tls.reading import Identity, Trust
from gramserve.tls.service import Tls


def server_credentials(tls: Tls) -> grpc.ServerCredentials:
    """For a listener; each new connection is shown the identity that `tls` has then.

    gRPC itself speaks TLS 1.2 and 1.3 only, with ECDHE and authenticated encryption.
    """
    shown = tls.identity()
    first = _configuration(shown)

    def changed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal shown
        now = tls.identity()
        if now is shown:
            return None
        shown = now
        return _configuration(now)

    # None means "no change" and is missing in the stubs.
    fetch = cast("Callable[[], grpc.ServerCertificateConfiguration]", changed)
    return grpc.dynamic_ssl_server_credentials(first, fetch, require_client_authentication=tls.asks_clients)


def channel_credentials(trust: Trust) -> grpc.ChannelCredentials:
    """For a channel that verifies its server by `trust`, and shows the certificate in it where there is one."""
    return grpc.ssl_channel_credentials(
        root_certificates=trust.ca or None,
        private_key=trust.key or None,
        certificate_chain=trust.chain or None,
    )


def _configuration(identity: Identity) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(identity.key, identity.chain)], root_certificates=identity.client_ca or None
    )
