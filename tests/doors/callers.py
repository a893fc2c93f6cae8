"""Callers whom an access file tells apart, and calls made from the descriptors of the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf import message_factory

from gramserve.access.editing import AccessEditor
from gramserve.access.file import PrincipalEntry
from gramserve.access.principal import Role
from gramserve.access.rules import Rule
from gramserve.errors import GramserveError
from gramserve.rpc.status import from_rpc_error

DAY = timedelta(days=1)


@dataclass
class Callers:
    """An access file in `folder` and the tokens of whom it names."""

    folder: Path
    tokens: dict[str, str] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """The access file."""
        return self.folder / "access.yaml"

    @property
    def editor(self) -> AccessEditor:
        """What changes it."""
        return AccessEditor(self.path)

    def add(
        self, name: str, roles: Iterable[Role], laboratories: Iterable[str] = (), certificates: Iterable[str] = ()
    ) -> str:
        """A principal with a token of a day; returns the token."""
        entry = PrincipalEntry(
            name=name, roles=tuple(roles), laboratories=tuple(laboratories), certificates=tuple(certificates)
        )
        self.editor.add(entry)
        self.tokens[name] = self.editor.create_token(name, DAY).text
        return self.tokens[name]

    def add_expired(self, name: str, roles: Iterable[Role], laboratories: Iterable[str] = ()) -> str:
        """A principal whose token ended yesterday."""
        self.add(name, roles, laboratories)
        before = AccessEditor(self.path, now=lambda: datetime.now(UTC) - 2 * DAY)
        self.tokens[name] = before.create_token(name, DAY).text
        return self.tokens[name]


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """The metadata that shows `token`; none for ""."""
    return (("authorization", f"Bearer {token}"),) if token else ()


class Bearing:
    """A stub whose every call shows a token."""

    def __init__(self, stub: Any, token: str) -> None:
        self._stub = stub
        self._token = token

    def __getattr__(self, name: str) -> Any:
        return partial(getattr(self._stub, name), metadata=bearer(self._token))


async def call(channel: grpc.aio.Channel, method: Any, request: Any, token: str = "") -> GramserveError | None:
    """How a call of the method descriptor `method` ended: its error, or None when it was answered."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    kind = ("stream" if method.client_streaming else "unary") + "_" + ("stream" if method.server_streaming else "unary")
    answer = message_factory.GetMessageClass(method.output_type)
    make = getattr(channel, kind)(
        path, request_serializer=lambda message: message.SerializeToString(), response_deserializer=answer.FromString
    )
    running = make(_once(request) if method.client_streaming else request, metadata=bearer(token), timeout=30)
    try:
        if method.server_streaming:
            async for _ in running:
                running.cancel()
                return None
        else:
            await running
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error)
    return None


def request_of(method: Any, rule: Rule, laboratory: str) -> Any:
    """A request of `method` that names `laboratory` where its rule says, and nothing else."""
    request = message_factory.GetMessageClass(method.input_type)()
    if rule.laboratory_field:
        place = request
        for name in rule.laboratory_field[:-1]:
            place = getattr(place, name)
        setattr(place, rule.laboratory_field[-1], f"laboratories/{laboratory}")
    return request


async def _once(request: Any) -> AsyncIterator[Any]:
    yield request
