"""Changes the access file, all of it or nothing, one change after the other."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from gramserve.access.file import AccessFile, PrincipalEntry, TokenEntry, read_access_file
from gramserve.access.tokens import Token, make_token
from gramserve.errors import AlreadyExists, NotFound, Reason

Principals = tuple[PrincipalEntry, ...]
_MODE = 0o644


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


@dataclass(frozen=True, slots=True)
class AccessEditor:
    """Edits the access file at `path`; services that follow it see each change within a second.

    The file is replaced by renaming: whoever reads it meanwhile reads the old one or the new one. Comments in it are
    not kept. `now` gives the time (UTC, whole seconds).
    """

    path: Path
    now: Callable[[], datetime] = _now

    def read(self) -> AccessFile:
        """What is in it; raises InvalidInput (INVALID_SETTINGS)."""
        return read_access_file(self.path)

    def add(self, entry: PrincipalEntry) -> None:
        """Adds a principal, and makes the file where there is none. Raises AlreadyExists, InvalidInput."""
        with self._changing(make=True) as (file, write):
            if any(known.name == entry.name for known in file.principals):
                raise AlreadyExists(Reason.INVALID_FIELD, f"there is a principal {entry.name} already")
            write((*file.principals, entry))

    def remove(self, name: str) -> None:
        """Removes a principal with its tokens. Raises NotFound, InvalidInput."""
        with self._changing() as (file, write):
            _named(file, name)
            write(tuple(known for known in file.principals if known.name != name))

    def create_token(self, name: str, valid: timedelta) -> Token:
        """Gives a principal a token more. Raises NotFound, InvalidInput."""
        with self._changing() as (file, write):
            token = make_token()
            write(_with_tokens(file, name, (*_named(file, name).tokens, self._entry(token, valid))))
            return token

    def rotate_token(self, token_id: str, valid: timedelta, overlap: timedelta) -> Token:
        """Gives the owner of a token a new one, and ends the old one after `overlap`. Raises NotFound, InvalidInput."""
        with self._changing() as (file, write):
            owner, old = _token(file, token_id)
            token, ends = make_token(), min(old.expires, self.now() + overlap)
            kept = tuple(t.model_copy(update={"expires": ends}) if t.id == token_id else t for t in owner.tokens)
            write(_with_tokens(file, owner.name, (*kept, self._entry(token, valid))))
            return token

    def revoke_token(self, token_id: str) -> None:
        """Ends a token at once; it stays in the file, so that the listing shows when. Raises NotFound, InvalidInput."""
        with self._changing() as (file, write):
            owner, old = _token(file, token_id)
            ended = old.model_copy(update={"revoked": old.revoked or self.now()})
            write(_with_tokens(file, owner.name, tuple(ended if t.id == token_id else t for t in owner.tokens)))

    def _entry(self, token: Token, valid: timedelta) -> TokenEntry:
        now = self.now()
        return TokenEntry(id=token.id, sha256=token.sha256, created=now, expires=now + valid)

    @contextmanager
    def _changing(self, *, make: bool = False) -> Iterator[tuple[AccessFile, Callable[[Principals], None]]]:
        """The file as it is, and what replaces it, while no other change is made."""
        place = self.path.resolve()
        with place.with_name(f"{place.name}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            file = AccessFile(principals=()) if make and not self.path.exists() else self.read()
            yield file, self._write

    def _write(self, principals: Principals) -> None:
        """Replaces the file once it is on disk; raises InvalidInput when the new one could not be read again."""
        data = AccessFile.model_construct(principals=principals).to_yaml()
        AccessFile.from_yaml(data)
        place = self.path.resolve()
        mode = place.stat().st_mode & 0o777 if place.exists() else _MODE
        handle, name = tempfile.mkstemp(dir=place.parent, prefix=f".{place.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                os.fchmod(file.fileno(), mode)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(place)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        folder = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _named(file: AccessFile, name: str) -> PrincipalEntry:
    for entry in file.principals:
        if entry.name == name:
            return entry
    raise NotFound(Reason.INVALID_FIELD, f"there is no principal {name}; `gramserve principals add` makes one")


def _token(file: AccessFile, token_id: str) -> tuple[PrincipalEntry, TokenEntry]:
    for owner, token in file.tokens():
        if token.id == token_id:
            return owner, token
    raise NotFound(Reason.INVALID_FIELD, f"there is no token {token_id}; `gramserve tokens list` shows all")


def _with_tokens(file: AccessFile, name: str, tokens: tuple[TokenEntry, ...]) -> Principals:
    return tuple(p.model_copy(update={"tokens": tokens}) if p.name == name else p for p in file.principals)
