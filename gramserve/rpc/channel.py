"""A gRPC channel as every client of ours opens it."""

from __future__ import annotations

import time
from pathlib import Path

import grpc.aio

from gramserve.errors import InvalidInput, Reason, Unsafe
from gramserve.rpc import options
from gramserve.rpc.renewing import RenewingChannel
from gramserve.rpc.tls import channel_credentials
from gramserve.tls.options import TlsOptions, is_local
from gramserve.tls.reading import Trust, read_trust
from gramserve.tls.reloaded import Reloaded


def open_channel(target: str, *, tls: TlsOptions | None = None, token_file: str = "") -> grpc.aio.Channel:
    """A channel to `target` ("host:port"); close it after use.

    It speaks TLS when `tls` names a CA or a certificate, and to another machine always, unless `tls` allows plain text.
    With `token_file` every call carries the token in it. Changed files are used from the next call on.

    Raises InvalidInput (INVALID_SETTINGS) when `target` is empty, files cannot be used, or a token would be readable on
    its way.
    """
    if not target.strip():  # gRPC would wait for it for ever
        raise InvalidInput(Reason.INVALID_SETTINGS, "the address of the service is empty; name it as HOST:PORT")
    tls = tls or TlsOptions()
    secure = tls.secures(target)
    if token_file and not secure and not is_local(target):
        raise InvalidInput(
            Reason.INVALID_SETTINGS, "a token goes over TLS only, or to this machine: name the CA of the service"
        )
    try:
        files = (tls.ca_file, tls.cert_file, tls.key_file)
        # Quiet: whoever uses a client decides what is written where.
        trust = Reloaded("trust", files, lambda: read_trust(tls, time.time()), quiet=True)
        token = Reloaded("token", (token_file,), lambda: _token(token_file), quiet=True) if token_file else None
    except Unsafe as error:
        raise InvalidInput(error.reason, error.message) from None
    if not secure and token is None:
        return _open(target, None)
    return RenewingChannel(
        lambda trust: _open(target, trust),
        trust=trust.current if secure else lambda: None,
        token=token.current if token else lambda: "",
    )


def _open(target: str, trust: Trust | None) -> grpc.aio.Channel:
    if trust is None:
        return grpc.aio.insecure_channel(target, options=options.CLIENT)
    return grpc.aio.secure_channel(target, channel_credentials(trust), options=options.CLIENT)


def _token(file: str) -> str:
    try:
        token = Path(file).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        token = ""
    if not token or not token.isprintable() or " " in token:
        raise Unsafe(Reason.INVALID_SETTINGS, "the file with the token cannot be read, or holds something else")
    return token
