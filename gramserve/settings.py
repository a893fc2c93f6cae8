"""Settings of a service: typed, frozen, read once from the environment, strict about unknown names."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from gramserve.errors import InvalidInput, Reason

PREFIX = "GRAMSERVE_"
SERVICE_PREFIXES = ("GRAMSERVE_GATEWAY_", "GRAMSERVE_WORKER_", "GRAMSERVE_OPTIMIZER_", "GRAMSERVE_REPORT_")
_NOT_SETTINGS = ("GRAMSERVE_TEST_", "GRAMSERVE_CLIENT_")


def _split(value: Any) -> Any:
    """The parts between commas, without blanks around them; anything but text is left to the field."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


CommaSeparated = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
"""A tuple of strings, written with commas between them."""


def _absolute(paths: tuple[str, ...]) -> tuple[str, ...]:
    if not all(Path(path).is_absolute() for path in paths):
        raise ValueError("must be absolute paths")
    return paths


AbsolutePaths = Annotated[CommaSeparated, AfterValidator(_absolute)]
"""Absolute paths, written with commas between them."""


class SharedSettings(BaseSettings):
    """What every service needs to know."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    store_url: str = Field(
        default="./gramserve-data/store",
        validation_alias="GRAMSERVE_STORE_URL",
        description="Folder or s3://bucket/prefix that holds models, images, batches and results.",
    )
    redis_url: str = Field(
        default="redis://127.0.0.1:6379/0",
        validation_alias="GRAMSERVE_REDIS_URL",
        description="Redis 6.2 or newer, noeviction, persistent; also unix:///path, redis+sentinel://host,host/NAME.",
    )
    allow_volatile_redis: bool = Field(
        default=False,
        validation_alias="GRAMSERVE_ALLOW_VOLATILE_REDIS",
        description="Start although Redis persists nothing. The store rebuilds the queue after a loss; delays follow.",
    )
    lease_s: float = Field(
        default=30.0,
        gt=0.5,
        validation_alias="GRAMSERVE_LEASE_S",
        description="How long a worker may keep a slide without renewing, seconds. The same for all services.",
    )
    tls_cert_file: str = Field(
        default="",
        validation_alias="GRAMSERVE_TLS_CERT_FILE",
        description="PEM file with the certificate of this service, then its issuers; every listener speaks TLS then.",
    )
    tls_key_file: str = Field(
        default="",
        validation_alias="GRAMSERVE_TLS_KEY_FILE",
        description="PEM file with the key of that certificate, not encrypted, not readable by others.",
    )
    tls_client_ca_file: str = Field(
        default="",
        validation_alias="GRAMSERVE_TLS_CLIENT_CA_FILE",
        description="PEM file with the CA of the callers; with it, every caller must show a certificate.",
    )
    tls_ca_file: str = Field(
        default="",
        validation_alias="GRAMSERVE_TLS_CA_FILE",
        description="PEM file with the CA of Redis (rediss://); empty means the CAs of the system.",
    )
    allow_plaintext: bool = Field(
        default=False,
        validation_alias="GRAMSERVE_ALLOW_PLAINTEXT",
        description="Listen and reach Redis without TLS beyond the loopback; only where the network itself is safe.",
    )
    access_file: str = Field(
        default="",
        validation_alias="GRAMSERVE_ACCESS_FILE",
        description="YAML file that says who may call what (docs/security.md); empty: everybody, on the loopback only.",
    )
    allow_anonymous: bool = Field(
        default=False,
        validation_alias="GRAMSERVE_ALLOW_ANONYMOUS",
        description="Without an access file: let everybody call who reaches the address, other machines too.",
    )
    four_eyes: bool = Field(
        default=True,
        validation_alias="GRAMSERVE_FOUR_EYES",
        description="With an access file: who published a model version may not promote it.",
    )
    max_calls: int = Field(
        default=2000,
        ge=0,
        validation_alias="GRAMSERVE_MAX_CALLS",
        description="Calls that a service answers at once, of all callers; 0 is no limit. Watches count apart.",
    )
    max_calls_per_caller: int = Field(
        default=500,
        ge=0,
        validation_alias="GRAMSERVE_MAX_CALLS_PER_CALLER",
        description="Calls that a service answers at once of one principal, or else of one address; 0 is no limit.",
    )
    max_watches: int = Field(
        default=1000,
        ge=0,
        validation_alias="GRAMSERVE_MAX_WATCHES",
        description="Streams of answers (watches, inference) that a service keeps open at once; 0 is no limit.",
    )
    max_watches_per_caller: int = Field(
        default=250,
        ge=0,
        validation_alias="GRAMSERVE_MAX_WATCHES_PER_CALLER",
        description="Streams of answers of one principal, or else of one address; 0 is no limit.",
    )
    stream_idle_s: float = Field(
        default=60.0,
        ge=0,
        validation_alias="GRAMSERVE_STREAM_IDLE_S",
        description="How long an upload may bring nothing, seconds, and a second more for each KiB; 0 is for ever.",
    )
    trusted_keys_file: str = Field(
        default="",
        validation_alias="GRAMSERVE_TRUSTED_KEYS_FILE",
        description="Public keys in PEM; what none of them signed is neither promoted nor loaded. Empty: no check.",
    )
    traces_endpoint: str = Field(
        default="",
        pattern="^(https?://[^/]+)?$",
        validation_alias="GRAMSERVE_TRACES_ENDPOINT",
        description="http(s)://host:port of an OTLP/gRPC receiver of traces, https beyond this machine; empty: none.",
    )
    traces_share: float = Field(
        default=1.0,
        ge=0.0,
        le=1.0,
        validation_alias="GRAMSERVE_TRACES_SHARE",
        description="Share (0 to 1) of the calls whose traces are recorded, where a caller did not decide it.",
    )
    log_level: str = Field(
        default="INFO",
        pattern="^(DEBUG|INFO|WARNING|ERROR)$",
        validation_alias="GRAMSERVE_LOG_LEVEL",
        description="DEBUG, INFO, WARNING or ERROR.",
    )
    log_format: str = Field(
        default="json",
        pattern="^(json|text)$",
        validation_alias="GRAMSERVE_LOG_FORMAT",
        description="json for machines, text for people.",
    )


S = TypeVar("S", bound=SharedSettings)


def load(settings: type[S], **overrides: Any) -> S:
    """Read `settings` from the environment; `overrides` win over it.

    Raises InvalidInput (INVALID_SETTINGS) for an unknown name with our prefix and for a value that cannot be.
    """
    env_names = dict(zip(settings.model_fields, (row.name for row in table(settings)), strict=True))
    own = set(env_names.values())
    others = tuple(p for p in SERVICE_PREFIXES if not any(name.startswith(p) for name in own)) + _NOT_SETTINGS
    for name in sorted(map(str.upper, os.environ)):
        if name.startswith(PREFIX) and name not in own and not name.startswith(others):
            raise InvalidInput(Reason.INVALID_SETTINGS, f"there is no setting {name}{_hint(name, own)}")
    if unknown := sorted(set(overrides) - set(env_names)):
        raise InvalidInput(Reason.INVALID_SETTINGS, f"there is no setting {unknown[0]}")
    try:
        return settings(**overrides)
    except ValidationError as error:
        faults = error.errors(include_input=False, include_url=False)
        wrong = [(_env_name(e["loc"], env_names), e["msg"].removeprefix("Value error, ")) for e in faults]
        text = "; ".join(f"{name}: {what}" if name else what for name, what in wrong)
        raise InvalidInput(Reason.INVALID_SETTINGS, f"settings cannot be used: {text}", violations=wrong) from None


def _env_name(loc: tuple[int | str, ...], env_names: dict[str, str]) -> str:
    """The setting at fault; "" when it is several together."""
    return env_names.get(str(loc[0]), str(loc[0])) if loc else ""


def _hint(name: str, own: set[str]) -> str:
    """The setting that was probably meant; the prefix that all share says nothing."""
    near = difflib.get_close_matches(name.removeprefix(PREFIX), [n.removeprefix(PREFIX) for n in own], n=1)
    return f"; did you mean {PREFIX}{near[0]}?" if near else "; docs/settings.md lists all of them"


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One row of the settings table: environment variable, default, what it does."""

    name: str
    default: str
    description: str


def table(settings: type[SharedSettings]) -> list[SettingRow]:
    """All settings of a service, in the order of their definition."""
    prefix = str(settings.model_config.get("env_prefix") or "")
    rows = []
    for name, field in settings.model_fields.items():
        alias = field.validation_alias
        env = alias if isinstance(alias, str) else f"{prefix}{name}".upper()
        default = field.get_default(call_default_factory=False)
        shown = ",".join(default) if isinstance(default, tuple) else str(default)
        rows.append(SettingRow(env, shown, field.description or ""))
    return rows
