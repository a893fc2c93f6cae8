"""Why a TLS handshake with a service fails: gRPC itself only says that it cannot be reached."""

from __future__ import annotations

import socket
import ssl
import time

from gramserve.tls.options import TlsOptions
from gramserve.tls.reading import read_trust

PATIENCE_S = 3.0
_X509_EXPIRED = 10
_X509_ANOTHER_NAME = {62, 64}  # of a host, of an address: X509_V_ERR_HOSTNAME_MISMATCH, ..._IP_ADDRESS_MISMATCH


def why_no_handshake(target: str, tls: TlsOptions) -> str:
    """What is wrong between a client with `tls` and the service at `target` ("host:port"); "" when nothing is found.

    Blocks for a few seconds at most.
    """
    host, _, port = target.rpartition(":")
    host = host.strip("[]")
    try:
        context = read_trust(tls, time.time()).context if tls.secures(target) else _credulous()
        return _shake_hands(host, int(port), context)
    except (OSError, ValueError):  # nobody there
        return ""


def _shake_hands(host: str, port: int, context: ssl.SSLContext) -> str:
    context.set_alpn_protocols(["h2"])
    trusting = context.verify_mode is ssl.CERT_NONE
    plain = socket.create_connection((host, port), timeout=PATIENCE_S)
    try:
        secured = context.wrap_socket(plain, server_hostname=host)
    except ssl.SSLError as error:
        plain.close()
        return "" if trusting else _said(error)
    with secured:
        if trusting:
            return "it speaks TLS, so its CA must be named"
        # In TLS 1.3 a server that refuses our certificate says so, or hangs up, only after the handshake.
        try:
            heard = secured.recv(1)
        except TimeoutError:
            return ""
        except OSError:
            heard = b""
    return "" if heard else "it does not accept the certificate of the caller, or misses one"


def _credulous() -> ssl.SSLContext:
    """Trusts anybody: only to find out whether TLS is spoken. Nothing is sent over it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _said(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in _X509_ANOTHER_NAME:
            return "its certificate is for another name"
        if error.verify_code == _X509_EXPIRED:
            return "its certificate has expired"
        return "its certificate is of another CA"
    return "it speaks no TLS, or none of the versions that are safe"
