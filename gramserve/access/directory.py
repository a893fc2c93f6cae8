"""Finds who calls by a token or by a client certificate, as the access file says now."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from gramserve.access.file import AccessFile, read_access_file
from gramserve.access.principal import Principal
from gramserve.access.tokens import read_token
from gramserve.errors import Reason, Unauthenticated
from gramserve.metrics import Metrics
from gramserve.tls.reloaded import Reloaded

FOLLOW_S = 1.0
_NO_SECRET = "0" * 64


class Directory:
    """Who there is. The file is read again within a second of a change; `clock` gives Unix seconds.

    A file that cannot be used any more changes nothing: what was read before holds on, a line is logged and
    `access_file_unusable` is 1 until it can be used again.
    """

    def __init__(
        self,
        path: Path,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.time,
        period_s: float = FOLLOW_S,
    ) -> None:
        """Raises InvalidInput (INVALID_SETTINGS) when the file cannot be used."""
        self._metrics = metrics
        metrics.set("access_file_unusable", 0)
        self._clock = clock
        self._period_s = period_s
        self._reloaded = Reloaded("access file", (str(path),), lambda: read_access_file(path))
        self._take(self._reloaded.current())

    def of_token(self, text: str) -> Principal:
        """Whose token `text` is. Raises Unauthenticated: UNAUTHENTICATED, or TOKEN_EXPIRED for its owner."""
        token = read_token(text)
        if token is None:
            raise _unknown()
        known = self._tokens.get(token.id)
        if known is None:
            token.proves(_NO_SECRET)  # an id that exists takes no longer than one that does not
            raise _unknown()
        entry, ends_s, principal = known
        if not token.proves(entry.sha256):
            raise _unknown()
        if self._clock() >= ends_s:
            raise Unauthenticated(Reason.TOKEN_EXPIRED, "the token does not hold any more; ask for a new one")
        return principal

    def of_certificate(self, names: Iterable[str]) -> Principal:
        """Whose client certificate, verified by TLS, has these names. Raises Unauthenticated (UNAUTHENTICATED)."""
        found = {self._certificates[name] for name in names if name in self._certificates}
        if len(found) != 1:
            raise Unauthenticated(
                Reason.UNAUTHENTICATED,
                "the client certificate names several principals"
                if found
                else "nothing says who calls: send a token or a client certificate that is known here",
            )
        return found.pop()

    def refresh(self) -> None:
        """Reads the file again when it has changed."""
        if (file := self._reloaded.current()) is not self._file:
            self._take(file)
        self._metrics.set("access_file_unusable", float(bool(self._reloaded.refused)))

    async def follow(self) -> None:
        """Refreshes for ever."""
        while True:
            await asyncio.sleep(self._period_s)
            await asyncio.to_thread(self.refresh)

    def _take(self, file: AccessFile) -> None:
        self._file = file
        # Calls read each of them once, and none reads both: no lock is needed between threads.
        self._tokens = {token.id: (token, token.ends_s, owner.principal) for owner, token in file.tokens()}
        self._certificates = {name: owner.principal for owner in file.principals for name in owner.certificates}


def _unknown() -> Unauthenticated:
    return Unauthenticated(Reason.UNAUTHENTICATED, "the token is not known here")
