"""What the worker and its children say to each other over a socket pair.

A frame is two lengths and a kind, then JSON, then perhaps bytes as they are: those of a message's field `blob`.
"""

from __future__ import annotations

import asyncio
import select
import socket
import struct
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeAlias, cast

from gramserve.store.codec import decode, encode
from gramserve.store.records import ImageRecord

MAX_FRAME_BYTES = 32 * 2**20
MAX_BLOB_BYTES = 128 * 2**20
_HEAD = struct.Struct(">IIB")  # bytes of the JSON that follows, bytes of the blob behind it, kind of the message


class BrokenProtocol(Exception):
    """The other side sent what no worker or child sends; nothing it says can be trusted any more."""


@dataclass(frozen=True, slots=True)
class ChildSettings:
    """The first message to a child: all it needs to know. Sizes in bytes and pixels; `models` are kept loaded."""

    store_url: str
    allowed_roots: tuple[str, ...]
    max_image_bytes: int
    max_image_pixels: int
    min_image_px: int
    memory_bytes: int
    models: int


@dataclass(frozen=True, slots=True)
class RunSlide:
    """Run one slide with the artifact `version` ("models/m/versions/3") whose manifest has SHA-256 `digest`."""

    id: int
    laboratory: str
    images: tuple[ImageRecord, ...]
    version: str
    digest: str
    specimen_type: str = ""


@dataclass(frozen=True, slots=True)
class LoadModel:
    """Load and verify a version before a slide needs it."""

    id: int
    version: str
    digest: str


@dataclass(frozen=True, slots=True)
class Forget:
    """Do not begin the work with this id; too late once it was started."""

    id: int


@dataclass(frozen=True, slots=True)
class Ready:
    """The child can run slides."""


@dataclass(frozen=True, slots=True)
class Started:
    """The work with this id begins: from here on the death of the child is charged to it."""

    id: int


@dataclass(frozen=True, slots=True)
class Finished:
    """A slide's call (Call.to_json). Seconds; `stages` by name: fetch, decode, infer, aggregate."""

    id: int
    call: dict[str, Any]
    tiles: int
    inference_s: float
    stages: dict[str, float]
    engine: str
    digest: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """The version asked for with this id is loaded and verified."""

    id: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The work with this id failed: a `gramserve.errors.Reason`, a sentence for people, whether it could pass.

    `cause` is the reason beneath it (why a model is unavailable); `detail` is for the log: type and place of an
    unexpected error, never its message.
    """

    id: int
    reason: str
    message: str
    retryable: bool
    cause: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Models:
    """The versions that the child has loaded now."""

    versions: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class CannotStart:
    """The child ends because it cannot begin; `detail` as in `Failed`."""

    detail: str


Work: TypeAlias = RunSlide | LoadModel
ToChild: TypeAlias = ChildSettings | RunSlide | LoadModel | Forget
FromChild: TypeAlias = Ready | Started | Finished | Loaded | Failed | Models | CannotStart
Message: TypeAlias = ToChild | FromChild

_KINDS: tuple[type[Message], ...] = (
    ChildSettings,
    RunSlide,
    LoadModel,
    Forget,
    Ready,
    Started,
    Finished,
    Loaded,
    Failed,
    Models,
    CannotStart,
)
_NUMBERS = {kind: number for number, kind in enumerate(_KINDS)}
_BLOB = "blob"
_FIELDS = {kind: tuple(f.name for f in fields(kind) if f.name != _BLOB) for kind in _KINDS}


def pack(message: Message) -> bytes:
    """The frame of a message."""
    blob = getattr(message, _BLOB, b"")
    body = encode({name: getattr(message, name) for name in _FIELDS[type(message)]})
    return b"".join((_HEAD.pack(len(body), len(blob), _NUMBERS[type(message)]), body, blob))


def _unpack_head(head: bytes) -> tuple[int, int, type[Message]]:
    length, blob, number = _HEAD.unpack(head)
    if length > MAX_FRAME_BYTES or blob > MAX_BLOB_BYTES or number >= len(_KINDS):
        raise BrokenProtocol
    return length, blob, _KINDS[number]


def _unpack(kind: type[Message], body: bytes, blob: bytes) -> Message:
    message = decode(kind, body)
    return cast("Message", replace(cast("Any", message), blob=blob)) if blob else message


async def read(reader: asyncio.StreamReader) -> Message | None:
    """The next message; None when the other side is gone. Raises BrokenProtocol and RecordCorrupt."""
    try:
        length, blob, kind = _unpack_head(await reader.readexactly(_HEAD.size))
        body = await reader.readexactly(length)
        return _unpack(kind, body, await reader.readexactly(blob) if blob else b"")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


class Wire:
    """The child's end of the socket pair; everything blocks."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)

    def send(self, message: Message) -> None:
        """Sends one message; raises OSError when the worker is gone."""
        self._socket.sendall(pack(message))

    def receive(self) -> Message | None:
        """Waits for the next message; None when the worker is gone."""
        head = self._exactly(_HEAD.size)
        if head is None:
            return None
        length, size, kind = _unpack_head(head)
        body = self._exactly(length)
        blob = self._exactly(size)
        return None if body is None or blob is None else _unpack(kind, body, blob)

    def waiting(self) -> bool:
        """True when `receive` would not have to wait."""
        return bool(self._poll.poll(0))

    def _exactly(self, size: int) -> bytes | None:
        parts = []
        while size:
            try:
                part = self._socket.recv(size)
            except ConnectionError:
                return None
            if not part:
                return None
            parts.append(part)
            size -= len(part)
        return b"".join(parts)
