"""A laboratory with a CA of its own, and ways to look at what a port shows."""

from __future__ import annotations

import socket
import ssl
from datetime import datetime
from pathlib import Path

from cryptography import x509

from gramserve.tls.authority import Authority
from gramserve.tls.options import TlsOptions
from tests.waiting import HANGS_S

HOSTS = ("localhost", "127.0.0.1")


class Laboratory:
    """A CA in `folder` with a certificate of a service and of a client."""

    def __init__(self, folder: Path, now: datetime | None = None) -> None:
        self.folder = folder
        self.authority = Authority.create(folder, now)
        self.authority.issue("service", hosts=HOSTS)
        self.authority.issue("client")

    def file(self, name: str) -> str:
        """The name of a file, which need not be there."""
        return str(self.folder / name)

    def serving(self, name: str = "service", *, mutual: bool = False) -> TlsOptions:
        """What a service is told that serves as `name`."""
        ca = self.file("ca.pem") if mutual else ""
        return TlsOptions(self.file(f"{name}.pem"), self.file(f"{name}.key"), client_ca_file=ca)

    def calling(self, name: str = "") -> TlsOptions:
        """What a client is told that trusts this laboratory and shows itself as `name`, or not at all."""
        if not name:
            return TlsOptions(ca_file=self.file("ca.pem"))
        return TlsOptions(self.file(f"{name}.pem"), self.file(f"{name}.key"), ca_file=self.file("ca.pem"))

    def context(self, name: str = "") -> ssl.SSLContext:
        """The same for Python's own clients."""
        context = ssl.create_default_context(cafile=self.file("ca.pem"))
        context.set_alpn_protocols(["h2"])
        if name:
            context.load_cert_chain(self.file(f"{name}.pem"), self.file(f"{name}.key"))
        return context

    def serial(self, name: str = "service") -> int:
        """The serial number of a certificate on disk."""
        return x509.load_pem_x509_certificate((self.folder / f"{name}.pem").read_bytes()).serial_number


def shown(port: int, context: ssl.SSLContext) -> x509.Certificate:
    """The certificate that the service at `port` shows; raises OSError when the handshake fails."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=HANGS_S) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
    ):
        der = secure.getpeercert(binary_form=True)
        assert der is not None
        return x509.load_der_x509_certificate(der)
