"""Whether the settings of every service can be used, and whether it could listen where they say."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator, Mapping

from gateway.settings import GatewaySettings
from gramserve.cli.checks.finding import Finding, Health
from gramserve.errors import GramserveError
from gramserve.night.settings import ReportSettings
from gramserve.settings import SharedSettings, load, table
from inference_svc.settings import WorkerSettings
from optimizer_svc.settings import OptimizerSettings

ALL = "all services"
SERVICES: Mapping[str, type[SharedSettings]] = {
    ALL: SharedSettings,
    "gateway": GatewaySettings,
    "worker": WorkerSettings,
    "optimizer": OptimizerSettings,
    "night report": ReportSettings,
}
_WHY_NOT = {
    errno.EACCES: "this user may not listen on {port}",
    errno.EADDRNOTAVAIL: "{host} is no address of this machine",
}


def load_all() -> tuple[dict[str, SharedSettings], Finding]:
    """The settings of each service by its name and those of `ALL`, and what is wrong; where something is, defaults."""
    found: dict[str, SharedSettings] = {}
    wrong: dict[str, None] = {}
    for service, kind in SERVICES.items():
        try:
            found[service] = load(kind)
        except GramserveError as error:
            found[service] = kind.model_construct()
            wrong[error.message] = None
    if not wrong:
        return found, Finding("settings", Health.OK, "all names and values are known")
    return found, Finding("settings", Health.FAILED, "; ".join(wrong), "docs/settings.md lists all of them")


def check_ports(services: Mapping[str, SharedSettings]) -> list[Finding]:
    """Whether each port that the settings name is free; one that the system chooses, or a unix socket, always is."""
    return [
        _check(f"port of the {name}", host.strip("[]"), int(port), setting)
        for service, settings in services.items()
        for name, host, port, setting in _addresses(service, settings)
        if port.isdecimal() and int(port)
    ]


def _addresses(service: str, settings: SharedSettings) -> Iterator[tuple[str, str, str, str]]:
    """Of each address: what listens there, host, port, and the setting that names it."""
    names = dict(zip(type(settings).model_fields, (row.name for row in table(type(settings))), strict=True))
    values = settings.model_dump()
    if "listen" in values:
        host, _, port = values["listen"].rpartition(":")
        yield service, host, port, names["listen"]
    if "metrics_port" in values:
        yield f"{service}'s metrics", values["metrics_host"], str(values["metrics_port"]), names["metrics_port"]


def _check(name: str, host: str, port: int, setting: str) -> Finding:
    """As a server does: it listens on each address of its host on which it can."""
    try:
        addresses = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        return Finding(name, Health.FAILED, f"there is no host {host}", f"set {setting}")
    errors = [_error(family, address) for family, _, _, _, address in addresses]
    if errno.EADDRINUSE in errors:
        advice = f"fine while that service runs; else set {setting} (`gramserve up` has options for its ports)"
        return Finding(name, Health.WARNING, f"{port} is taken", advice)
    if 0 in errors:
        return Finding(name, Health.OK, f"{port} is free")
    why = _WHY_NOT.get(errors[0], "{port} of {host} cannot be listened on").format(host=host, port=port)
    return Finding(name, Health.FAILED, why, f"set {setting}")


def _error(family: int, address: tuple[str | int | bytes, ...]) -> int:
    """Why nobody could listen there now, as an errno; 0: one could."""
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return error.errno or errno.EINVAL
    return 0
