"""The TLS of one service: its identity for all listeners, its trust for what it calls, both reloaded."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from typing import Protocol

from gramserve.errors import Reason, Unsafe
from gramserve.settings import SharedSettings
from gramserve.tls.options import TlsOptions, is_local
from gramserve.tls.reading import Identity, Trust, read_identity, read_trust
from gramserve.tls.reloaded import Reloaded

LOOK_S = 10.0


class _Gauges(Protocol):
    def set(self, name: str, value: float, **labels: str) -> None: ...


class Tls:
    """What every listener and connection of one process is given. `clock` gives Unix seconds.

    Raises Unsafe (INVALID_SETTINGS) for files that cannot be used.
    """

    def __init__(
        self, options: TlsOptions | None = None, *, clock: Callable[[], float] = time.time, look_s: float = LOOK_S
    ) -> None:
        self._options = o = options or TlsOptions()
        self._clock = clock
        self._look_s = look_s
        self._identity: Reloaded[Identity] | None = None
        self._trust: Reloaded[Trust] | None = None
        if o.cert_file or o.key_file:
            files = (o.cert_file, o.key_file, o.client_ca_file)
            self._identity = Reloaded("certificate", files, lambda: read_identity(o, clock()))
        elif o.client_ca_file:
            raise Unsafe(Reason.INVALID_SETTINGS, "a CA for clients needs a TLS certificate of the service, too")

    @classmethod
    def of(cls, settings: SharedSettings) -> Tls:
        """As the settings of a service say."""
        return cls(
            TlsOptions(
                cert_file=settings.tls_cert_file,
                key_file=settings.tls_key_file,
                ca_file=settings.tls_ca_file,
                client_ca_file=settings.tls_client_ca_file,
                allow_plaintext=settings.allow_plaintext,
            )
        )

    @property
    def serves(self) -> bool:
        """Whether listeners speak TLS; else they speak plain text."""
        return self._identity is not None

    @property
    def asks_clients(self) -> bool:
        """Whether callers must show a certificate."""
        return bool(self._options.client_ca_file)

    def identity(self) -> Identity:
        """What listeners show to the next connection. Only where `serves`."""
        assert self._identity is not None
        return self._identity.current()

    def client_context(self) -> ssl.SSLContext:
        """For the next connection to a server of others, which is always verified, its name too."""
        if self._trust is None:
            o, clock = self._options, self._clock
            files = (o.cert_file, o.key_file, o.ca_file)
            self._trust = Reloaded("trust in servers", files, lambda: read_trust(o, clock()))
        return self._trust.current().context

    def check_listener(self, what: str, address: str) -> None:
        """Raises Unsafe (INSECURE_LISTENER) where `address` would be served in plain text beyond this machine."""
        if not (self.serves or self._options.allow_plaintext or is_local(address)):
            raise _plain(f"{what} would listen in plain text on {address}")

    def check_plain_connection(self, what: str, address: str) -> None:
        """Raises Unsafe (INSECURE_LISTENER) where plain text to `address` would leave this machine."""
        if not (self._options.allow_plaintext or is_local(address)):
            raise _plain(f"{what} would be spoken to in plain text")

    async def watch(self, metrics: _Gauges) -> None:
        """Look for changed files and show how long certificates are valid, until cancelled."""
        while True:
            await asyncio.to_thread(self.look, metrics)
            await asyncio.sleep(self._look_s)

    def look(self, metrics: _Gauges) -> None:
        """Look for changed files once, now."""
        refused = False
        ends: dict[str, float] = {}
        for kept in (self._trust, self._identity):
            if kept is not None:
                ends |= kept.current().expires
                refused |= bool(kept.refused)
        for certificate, end in ends.items():
            metrics.set("certificate_expires_seconds", end - self._clock(), certificate=certificate)
        metrics.set("certificate_refused", float(refused))


def _plain(what: str) -> Unsafe:
    return Unsafe(
        Reason.INSECURE_LISTENER,
        f"{what}; set GRAMSERVE_TLS_CERT_FILE and GRAMSERVE_TLS_KEY_FILE (rediss:// for Redis), "
        "or GRAMSERVE_ALLOW_PLAINTEXT=true where the network is safe",
    )
