"""Whether running services are of this release and keep the same time, as their metrics tell."""

from __future__ import annotations

import asyncio
import http.client
import re
import socket
import ssl
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from gramserve.cli.checks.clocks import judge_clock
from gramserve.cli.checks.finding import Finding, Health
from gramserve.errors import GramserveError
from gramserve.metrics import installed_version
from gramserve.tls.service import Tls

TIMEOUT_S = 5.0
MOST_BYTES = 16 * 2**20
_VERSION = re.compile(r'^gramserve_build_info\{[^}]*version="([^"]*)"', re.MULTILINE)


async def check_peer(url: str, tls: Tls, *, clock: Callable[[], float] = time.time) -> list[Finding]:
    """The service whose metrics are at `url`, such as "http://127.0.0.1:9101/metrics"."""
    try:
        date, text = await asyncio.to_thread(_fetch, url, tls)
        told_s = parsedate_to_datetime(date).timestamp()
    except (OSError, http.client.HTTPException, GramserveError, ValueError) as error:
        why, advice = _why(error)
        return [Finding(f"service at {url}", Health.FAILED, f"its metrics cannot be read{why}", advice)]
    ahead_s = told_s + 0.5 - clock()  # the header has whole seconds
    return [_judge_version(url, text), judge_clock(f"clock of {url}", ahead_s)]


def _why(error: Exception) -> tuple[str, str]:
    """Why the metrics of a service cannot be read, and what to do."""
    if isinstance(error, ssl.SSLCertVerificationError):
        advice = "set GRAMSERVE_TLS_CA_FILE to the CA that issued it, and use a name that the certificate holds"
        return ": its certificate is not trusted", advice
    if isinstance(error, ssl.SSLError):
        advice = "use http:// if it speaks no TLS; set GRAMSERVE_TLS_CERT_FILE and _KEY_FILE if it asks who calls"
        return ": it ends the TLS handshake", advice
    if isinstance(error, ConnectionResetError | http.client.BadStatusLine):
        return ": what is there ends the connection", "use https:// if it speaks TLS"
    advice = "start it, or name the address of its metrics (GRAMSERVE_..._METRICS_HOST and _PORT)"
    if isinstance(error, socket.gaierror):
        return ": there is no host of that name", advice
    return "", advice


def _judge_version(url: str, text: str) -> Finding:
    name, own = f"service at {url}", installed_version()
    version = next(iter(_VERSION.findall(text)), "")
    if version == own:
        return Finding(name, Health.OK, f"gramserve {version}, as here")
    found = f"gramserve {version}, here {own}" if version else "a release that does not tell its version"
    return Finding(name, Health.WARNING, found, "fine during an upgrade; bring all to one release after it")


def _fetch(url: str, tls: Tls) -> tuple[str, str]:
    """The Date header and the text; raises OSError, HTTPException, GramserveError, ValueError."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("scheme")
    if parts.scheme == "https":
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            parts.hostname, parts.port, timeout=TIMEOUT_S, context=tls.client_context()
        )
    else:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", parts.path or "/metrics")
        answer = connection.getresponse()
        if answer.status != http.client.OK:
            raise http.client.HTTPException
        return answer.headers["Date"] or "", answer.read(MOST_BYTES).decode(errors="replace")
    finally:
        connection.close()
