"""Whether callers are told apart here, and whether a service may do without."""

from __future__ import annotations

from pathlib import Path

from gramserve.access.directory import Directory
from gramserve.errors import Reason, Unsafe
from gramserve.metrics import Metrics
from gramserve.settings import SharedSettings
from gramserve.tls.options import is_local


def open_access(settings: SharedSettings, listen: str, metrics: Metrics) -> Directory | None:
    """Who may call what listens on `listen`; None: everybody, since only this machine can, or a setting allows it.

    Raises Unsafe (INSECURE_LISTENER) when strangers could call, InvalidInput (INVALID_SETTINGS) when the access file
    cannot be used.
    """
    if settings.access_file:
        return Directory(Path(settings.access_file), metrics)
    if settings.allow_anonymous or is_local(listen):
        return None
    raise Unsafe(
        Reason.INSECURE_LISTENER,
        f"{listen} can be reached from other machines and nobody is told apart: set GRAMSERVE_ACCESS_FILE "
        "(`gramserve principals add` makes one), or GRAMSERVE_ALLOW_ANONYMOUS=true where the network is all yours",
    )
