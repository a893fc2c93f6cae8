"""Whether certificates, keys and tokens can be used, by which names, and for how long."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from gramserve.access.file import read_access_file
from gramserve.cli.checks.finding import Finding, Health
from gramserve.errors import GramserveError
from gramserve.settings import SharedSettings
from gramserve.store.signing import load_trusted
from gramserve.tls.authority import describe
from gramserve.tls.options import TlsOptions
from gramserve.tls.reading import read_identity, read_trust

SOON_S = 30 * 86400.0
PROBED = "localhost"
"""The name by which health probes of a container call their own service."""


def check_certificates(settings: SharedSettings, hosts: Sequence[str] = (), now: float | None = None) -> list[Finding]:
    """The certificates that the settings name; `hosts` are names by which callers reach the service."""
    now = time.time() if now is None else now
    options = TlsOptions(
        cert_file=settings.tls_cert_file,
        key_file=settings.tls_key_file,
        ca_file=settings.tls_ca_file,
        client_ca_file=settings.tls_client_ca_file,
    )
    serves = bool(options.cert_file or options.key_file or options.client_ca_file)
    if not serves and not options.ca_file:
        return [Finding("certificates", Health.OK, "none set: plain text, which only this machine may speak")]
    ends: dict[str, float] = {}
    try:
        if serves:
            ends |= read_identity(options, now).expires
        if options.ca_file:
            ends |= read_trust(options, now).expires
    except GramserveError as error:
        advice = "see docs/security.md, TLS; `gramserve certs show` tells what is in a file"
        return [Finding("certificates", Health.FAILED, error.message, advice)]
    findings = [_judge_end(f"certificate ({name})", end, now) for name, end in ends.items()]
    if options.cert_file:
        findings.append(_check_names(Path(options.cert_file), hosts))
    return findings


def _judge_end(name: str, end: float, now: float) -> Finding:
    day = datetime.fromtimestamp(end, UTC).date().isoformat()
    found = f"holds until {day}, {int((end - now) // 86400)} days"
    if end - now > SOON_S:
        return Finding(name, Health.OK, found)
    return Finding(name, Health.WARNING, found, "renew it now (`gramserve certs renew`); no restart is needed")


def _check_names(file: Path, hosts: Sequence[str]) -> Finding:
    names = describe(file.read_bytes()).hosts
    found = f"for {', '.join(names) or 'no host'}"
    if lacking := [host for host in hosts if not any(_covers(name, host) for name in names)]:
        advice = "callers refuse it under that name: issue one with --host"
        return Finding("certificate names", Health.FAILED, f"{found}; not for {', '.join(lacking)}", advice)
    if PROBED not in names:
        advice = "health probes call it localhost: issue one with that name too"
        return Finding("certificate names", Health.WARNING, f"{found}; not for {PROBED}", advice)
    return Finding("certificate names", Health.OK, found)


def _covers(name: str, host: str) -> bool:
    """Whether a certificate for `name`, such as "*.lab", is one for `host`, as TLS compares them."""
    name, host = name.lower(), host.lower()
    return name == host or (name.startswith("*.") and host.partition(".")[2] == name.removeprefix("*."))


def check_access(settings: SharedSettings, now: float | None = None) -> Finding:
    """Whether the access file can be used, and which tokens in it end soon."""
    now = time.time() if now is None else now
    if not settings.access_file:
        return Finding("access", Health.OK, "no access file: everybody on this machine, and nobody else")
    try:
        file = read_access_file(Path(settings.access_file))
    except GramserveError as error:
        return Finding("access", Health.FAILED, error.message, "see docs/security.md, Access")
    holding = [(owner.name, token.ends_s) for owner, token in file.tokens() if token.ends_s > now]
    found = f"{len(file.principals)} principals, {len(holding)} tokens that hold"
    if soon := sorted({name for name, end in holding if end - now < SOON_S}):
        advice = "`gramserve tokens list`, then `gramserve tokens rotate ID`"
        return Finding("access", Health.WARNING, f"{found}; tokens of {', '.join(soon)} end within 30 days", advice)
    return Finding("access", Health.OK, found)


def check_trusted_keys(settings: SharedSettings) -> Finding:
    """Whether the file of keys that sign artifacts can be used."""
    if not settings.trusted_keys_file:
        return Finding("trusted keys", Health.OK, "none set: artifacts need no signature")
    try:
        keys = load_trusted(settings.trusted_keys_file)
    except GramserveError as error:
        return Finding("trusted keys", Health.FAILED, error.message, "see docs/security.md, Artifacts")
    return Finding("trusted keys", Health.OK, ", ".join(keys.key_ids))
