"""The access file: who there is, in YAML."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from gramserve.access.principal import ALL_LABORATORIES, NOBODYS_NAMES, Principal, Role
from gramserve.errors import InvalidInput, Reason

MAX_BYTES = 16 * 2**20
_NOTE = (
    "# Who may call gramserve. `gramserve principals` and `gramserve tokens` write this file; it holds no secrets.\n"
)

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._@-]{0,62}$")]
Laboratory = Annotated[str, Field(pattern=r"^([a-z0-9][a-z0-9-]{0,62}|\*)$")]
CertificateName = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[\x21-\x7e]+$")]


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TokenEntry(_Entry):
    """One token of a principal: SHA-256 of its secret and the times (UTC) between which it holds."""

    id: str = Field(pattern=r"^[0-9a-f]{12}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    created: AwareDatetime
    expires: AwareDatetime
    revoked: AwareDatetime | None = None

    @property
    def ends_s(self) -> float:
        """When it holds no more, Unix seconds."""
        ends = self.expires if self.revoked is None else min(self.expires, self.revoked)
        return ends.timestamp()


class PrincipalEntry(_Entry):
    """One principal. `laboratories` are ids, or "*" for all; `certificates` are common names or alternative names.

    A client certificate fits when its subject's common name or one of its subject alternative names is among them.
    """

    name: Name
    roles: tuple[Role, ...] = Field(min_length=1)
    laboratories: tuple[Laboratory, ...] = ()
    tokens: tuple[TokenEntry, ...] = ()
    certificates: tuple[CertificateName, ...] = ()

    @model_validator(mode="after")
    def _has_a_name_of_its_own(self) -> PrincipalEntry:
        if self.name in NOBODYS_NAMES:
            raise ValueError(f"{self.name} is what the audit record calls somebody else")
        if ALL_LABORATORIES in self.laboratories and len(self.laboratories) > 1:
            raise ValueError("laboratories must be ids, or * alone")
        return self

    @property
    def principal(self) -> Principal:
        """Who this is."""
        return Principal(self.name, frozenset(self.roles), frozenset(self.laboratories))


class AccessFile(_Entry):
    """All principals; names, ids of tokens and names of certificates are unique among all of them.

    An empty file is none: it is one that is just being written, or that a full disk left.
    """

    principals: tuple[PrincipalEntry, ...]

    @model_validator(mode="after")
    def _nothing_means_two(self) -> AccessFile:
        for kind, names in (
            ("name", [p.name for p in self.principals]),
            ("token", [token.id for p in self.principals for token in p.tokens]),
            ("certificate", [name for p in self.principals for name in p.certificates]),
        ):
            if len(set(names)) < len(names):
                raise ValueError(f"a {kind} stands in it twice")
        return self

    def tokens(self) -> Iterator[tuple[PrincipalEntry, TokenEntry]]:
        """Every token and whose it is."""
        yield from ((principal, token) for principal in self.principals for token in principal.tokens)

    def to_yaml(self) -> bytes:
        """The bytes of the file."""
        data = self.model_dump(mode="json", exclude_none=True)
        return (_NOTE + yaml.safe_dump(data, sort_keys=False, width=120)).encode()

    @classmethod
    def from_yaml(cls, data: bytes) -> AccessFile:
        """Reads what is in the file; raises InvalidInput (INVALID_SETTINGS), naming the first entry that is wrong."""
        try:
            found = yaml.safe_load(data)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            raise _unusable(f"line {mark.line + 1} is no YAML" if mark else "it is no YAML") from None
        except Exception:  # a value that is not of the type that its tag says, or nesting without end
            raise _unusable("it is no YAML") from None
        try:
            return cls.model_validate(found or {})
        except ValidationError as error:
            fault = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, fault["loc"]))
            what = fault["msg"].removeprefix("Value error, ")
            raise _unusable(f"{where}: {what}" if where else what) from None


def read_access_file(path: Path) -> AccessFile:
    """What is in the file.

    Raises InvalidInput (INVALID_SETTINGS) when it cannot be read or understood, or when others than its owner may
    write it: who writes it decides who may do what.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise _unusable((error.strerror or "it cannot be read").lower()) from None
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise _unusable("others than its owner may write it; chmod go-w")
    if len(data) > MAX_BYTES:
        raise _unusable("it is too large")
    return AccessFile.from_yaml(data)


def _unusable(why: str) -> InvalidInput:
    return InvalidInput(Reason.INVALID_SETTINGS, f"the access file cannot be used: {why}")
