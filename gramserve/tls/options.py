"""Which certificates a process shows and trusts, and where it may speak plain text."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """PEM files by name, "" for none, and whether plain text may leave this machine.

    `cert_file` is the process's own certificate, then its issuers, with its key in `key_file`. `ca_file` verifies the
    servers that it calls, "" means the CAs of the system. `client_ca_file` verifies those who call it: with one,
    nobody gets in without a certificate.
    """

    cert_file: str = ""
    key_file: str = ""
    ca_file: str = ""
    client_ca_file: str = ""
    allow_plaintext: bool = False

    def secures(self, target: str) -> bool:
        """Whether a client speaks TLS to `target`: with a CA or a certificate, and beyond this machine always."""
        named = bool(self.ca_file or self.cert_file or self.key_file)
        return named or not (self.allow_plaintext or is_local(target))


def is_local(address: str) -> bool:
    """Whether what is said to `address` stays on this machine: a unix socket, or a host (with a port) on the loopback.

    A host name is not looked up, as its answer may change: only "localhost" is local.
    """
    scheme, _, rest = address.rpartition("//") if "//" in address else address.partition(":")
    if scheme.startswith("unix"):
        return True
    if scheme in {"dns:", "ipv4", "ipv6", "dns"}:
        address = rest.lstrip("/")
    if address.startswith("["):
        host = address[1:].partition("]")[0]
    elif not address:
        return False
    else:
        host = address.rpartition(":")[0] if address.count(":") == 1 else address
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
