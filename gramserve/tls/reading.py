"""Reads certificates and keys, and refuses those that would not work."""

from __future__ import annotations

import ssl
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from gramserve.errors import Reason, Unsafe
from gramserve.tls.options import TlsOptions

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2, beside the suites of TLS 1.3: forward secrecy and authenticated encryption only (RFC 9325)."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a server shows and trusts: PEM for gRPC, a context for everything else.

    `expires` has the Unix time at which "service", its own certificate, and "client_ca" end.
    """

    chain: bytes
    key: bytes
    client_ca: bytes
    context: ssl.SSLContext
    expires: dict[str, float]


@dataclass(frozen=True, slots=True)
class Trust:
    """What a client trusts and shows; `expires` as in `Identity`, for "ca" and its own certificate, "client"."""

    ca: bytes
    chain: bytes
    key: bytes
    context: ssl.SSLContext
    expires: dict[str, float]


def read_identity(options: TlsOptions, now: float) -> Identity:
    """The identity of a server, fit to be served at Unix time `now`. Raises Unsafe (INVALID_SETTINGS)."""
    chain, key, ends = _pair(options, now)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _harden(context)
    _load(context, options)
    expires = {"service": ends}
    client_ca = b""
    if options.client_ca_file:
        client_ca, der, expires["client_ca"] = _authorities(options.client_ca_file, "the CA of the clients", now)
        context.load_verify_locations(cadata=der)
        context.verify_mode = ssl.CERT_REQUIRED
    return Identity(chain, key, client_ca, context, expires)


def read_trust(options: TlsOptions, now: float) -> Trust:
    """What a client needs to verify servers and to be known by them. Raises Unsafe (INVALID_SETTINGS)."""
    ca, der, chain, key = b"", b"", b"", b""
    expires: dict[str, float] = {}
    if options.ca_file:
        ca, der, expires["ca"] = _authorities(options.ca_file, "the CA of the servers", now)
    context = ssl.create_default_context(cadata=der or None)
    _harden(context)
    if options.cert_file or options.key_file:
        chain, key, expires["client"] = _pair(options, now)
        _load(context, options)
    return Trust(ca, chain, key, context, expires)


def _harden(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)


def _pair(options: TlsOptions, now: float) -> tuple[bytes, bytes, float]:
    """Certificate chain, key, and the Unix time at which the first certificate of the chain ends."""
    if not (options.cert_file and options.key_file):
        raise _unfit("a TLS certificate and its key belong together; one of them is not set")
    chain = _read(options.cert_file, "the TLS certificate")
    key = _read(options.key_file, "the key of the TLS certificate", secret=True)
    found = _parsed(chain, "the TLS certificate")
    return chain, key, min(_ends([one], "the TLS certificate", now) for one in found)


def _authorities(file: str, what: str, now: float) -> tuple[bytes, bytes, float]:
    """PEM and DER of the CAs, and when the first of those ends that are valid now: while CAs change there are two."""
    pem = _read(file, what)
    found = _parsed(pem, what)
    return pem, b"".join(one.public_bytes(Encoding.DER) for one in found), _ends(found, what, now)


def _read(file: str, what: str, *, secret: bool = False) -> bytes:
    path = Path(file)
    try:
        if secret and path.stat().st_mode & (stat.S_IRWXO | stat.S_IWGRP | stat.S_IXGRP):
            raise _unfit(f"{what} can be read by others, or written by its group; chmod 600 it")
        return path.read_bytes()
    except OSError:
        raise _unfit(f"{what} cannot be read") from None


def _parsed(pem: bytes, what: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise _unfit(f"{what} is no PEM file with certificates") from None


def _ends(found: Sequence[x509.Certificate], what: str, now: float) -> float:
    """The Unix time at which the first of those certificates ends that are valid at `now`; one must be."""
    begun = [one for one in found if one.not_valid_before_utc.timestamp() <= now]
    ends = [end for one in begun if (end := one.not_valid_after_utc.timestamp()) > now]
    if not ends:
        raise _unfit(f"{what} has expired" if begun else f"{what} is not valid yet")
    return min(ends)


def _load(context: ssl.SSLContext, options: TlsOptions) -> None:
    try:
        # Without this, an encrypted key would ask for its password at the terminal.
        context.load_cert_chain(options.cert_file, options.key_file, password="")
    except (ssl.SSLError, OSError, ValueError):
        raise _unfit("the TLS certificate and its key do not fit together, or the key is encrypted") from None


def _unfit(message: str) -> Unsafe:
    return Unsafe(Reason.INVALID_SETTINGS, message)
