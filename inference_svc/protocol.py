"""What the worker and its children say to each other over a socket pair.

A frame is two lengths and a kind, then JSON, then perhaps bytes as they are: those of a message's field `blob`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeAlias, cast

from gramserve.store.codec import decode, encode
from gramserve.store.records import ImageRecord

MAX_FRAME_BYTES = 32 * 2**20
MAX_BLOB_BYTES = 128 * 2**20
_HEAD = struct.Struct(">IIB")  # bytes of the JSON that follows, bytes of the blob behind it, kind of the message
_LENGTH = struct.Struct(">I")


class BrokenProtocol(Exception):
    """The other side sent what no worker or child sends; nothing it says can be trusted any more."""


@dataclass(frozen=True, slots=True)
class ChildSettings:
    """The first message to a child: all it needs to know. Sizes in bytes and pixels.

    At most `models` versions are kept loaded, in at most `models_bytes`. A whole slide of more than `shard_tiles` tiles
    is divided. One piece of work may take `cpu_s` seconds of CPU time.
    `trusted_keys_file` is GRAMSERVE_TRUSTED_KEYS_FILE, "" asks for no signature; `trusted_keys` were in it, in PEM.
    """

    store_url: str
    allowed_roots: tuple[str, ...]
    max_image_bytes: int
    max_image_pixels: int
    min_image_px: int
    memory_bytes: int
    models: int
    models_bytes: int = 2**30
    max_slide_bytes: int = 0
    shard_tiles: int = 1024
    engine: str = "auto"
    cpu_s: float = 300.0
    trusted_keys_file: str = ""
    trusted_keys: str = ""


@dataclass(frozen=True, slots=True)
class RunSlide:
    """Run one slide with the artifact `version` ("models/m/versions/3") whose manifest has SHA-256 `digest`.

    Of a whole slide that was divided into `shards` parts only part `shard` (from 0), as `Divide.blob` says. `urgent`
    work overtakes what waits, and interrupts what runs before any batch of its tiles. `reuse` is where the call of
    the same pixels would be, see `gramserve.store.reuse`; "" to run it in any case. It is not begun after `deadline_s`
    (None: whenever), by the monotonic clock, which all processes of a machine share (I12).
    """

    id: int
    laboratory: str
    images: tuple[ImageRecord, ...]
    version: str
    digest: str
    specimen_type: str = ""
    urgent: bool = False
    shard: int = 0
    shards: int = 0
    reuse: str = ""
    deadline_s: float | None = None
    blob: bytes = b""


@dataclass(frozen=True, slots=True)
class RunShadow:
    """Run a slide with a version that does not serve, in memory that is left, and give way to whatever else waits."""

    id: int
    laboratory: str
    images: tuple[ImageRecord, ...]
    version: str
    digest: str
    specimen_type: str = ""


@dataclass(frozen=True, slots=True)
class Combine:
    """Make the call of a whole slide: `blob` has the readings of its parts in their order, by `join_blobs`."""

    id: int
    version: str
    digest: str
    specimen_type: str
    blob: bytes = b""


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
class Infer:
    """Run a request of the Open Inference Protocol with a version, as in `RunSlide`; `blob` is the request, serialized.

    It is not begun after `deadline_s` (None: whenever), by the monotonic clock, which all processes of a machine share.
    """

    id: int
    version: str
    digest: str
    deadline_s: float | None
    blob: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Ready:
    """The child can run slides."""


@dataclass(frozen=True, slots=True)
class Started:
    """The work with this id begins: from here on the death of the child is charged to it.

    Urgent work may begin inside other work, one level deep. What it interrupts is not charged until it goes on.
    """

    id: int


@dataclass(frozen=True, slots=True)
class Finished:
    """A slide's call (Call.to_json). Seconds; `stages` by name: fetch, decode, tile, infer, aggregate.

    `reused`: the call was made before, for the same pixels. Tiles fit to read by label and band: see
    `gramserve.runtime.tally`.
    """

    id: int
    call: dict[str, Any]
    tiles: int
    inference_s: float
    stages: dict[str, float]
    engine: str
    digest: str
    reused: bool = False
    tile_labels: dict[str, int] = field(default_factory=dict)
    tile_bands: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Inferred:
    """The response to an `Infer`, serialized, as `blob`; seconds of reading input, of inference, of writing output."""

    id: int
    tiles: int
    input_s: float
    infer_s: float
    output_s: float
    blob: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Divide:
    """The slide with this id is too large for one child: run it in `shards` parts, each with this `blob`."""

    id: int
    shards: int
    blob: bytes = b""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a slide was read: tiles, seconds inside the engine, its readings."""

    id: int
    tiles: int
    inference_s: float
    blob: bytes = b""


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
    """The versions that the child has loaded now, and the bytes they take together."""

    versions: tuple[str, ...] = field(default=())
    size: int = 0


@dataclass(frozen=True, slots=True)
class CannotStart:
    """The child ends because it cannot begin; `detail` as in `Failed`."""

    detail: str


@dataclass(frozen=True, slots=True)
class EngineChosen:
    """Which engine serves a version in this child, seconds a tile of those measured, and why others do not."""

    version: str
    engine: str
    tile_s: dict[str, float]
    passed_over: dict[str, str]


@dataclass(frozen=True, slots=True)
class VersionLoaded:
    """A version was loaded into an engine, in so many seconds by step; its labels, those of organisms among them.

    The shares of tiles of its validation split, by label and band, where its manifest knows them.
    """

    version: str
    engine: str
    load_s: dict[str, float]
    labels: tuple[str, ...]
    organisms: tuple[str, ...]
    reference_labels: dict[str, float]
    reference_bands: dict[str, float]


Work: TypeAlias = RunSlide | Combine | LoadModel | RunShadow | Infer
ToChild: TypeAlias = ChildSettings | RunSlide | LoadModel | Forget | RunShadow | Infer | Combine
FromChild: TypeAlias = (
    Ready
    | Started
    | Finished
    | Loaded
    | Failed
    | Models
    | CannotStart
    | EngineChosen
    | VersionLoaded
    | Inferred
    | Divide
    | Part
)
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
    RunShadow,
    Infer,
    Inferred,
    Combine,
    Divide,
    Part,
    EngineChosen,
    VersionLoaded,
)
_NUMBERS = {kind: number for number, kind in enumerate(_KINDS)}
_BLOB = "blob"
_WITH_BLOB = frozenset(kind for kind in _KINDS if _BLOB in {f.name for f in fields(kind)})
_FIELDS = {kind: tuple(f.name for f in fields(kind) if f.name != _BLOB) for kind in _KINDS}


def is_urgent(work: Work) -> bool:
    """Whether this work overtakes other work in a child."""
    return isinstance(work, Infer | Combine) or (isinstance(work, RunSlide) and work.urgent)


def pack(message: Message) -> bytes:
    """The frame of a message."""
    blob = getattr(message, _BLOB, b"")
    body = encode({name: getattr(message, name) for name in _FIELDS[type(message)]})
    return b"".join((_HEAD.pack(len(body), len(blob), _NUMBERS[type(message)]), body, blob))


def _unpack_head(head: bytes) -> tuple[int, int, type[Message]]:
    length, blob, number = _HEAD.unpack(head)
    if length > MAX_FRAME_BYTES or blob > MAX_BLOB_BYTES or number >= len(_KINDS):
        raise BrokenProtocol
    if blob and _KINDS[number] not in _WITH_BLOB:
        raise BrokenProtocol
    return length, blob, _KINDS[number]


def _unpack(kind: type[Message], body: bytes, blob: bytes) -> Message:
    message = decode(kind, body)
    return cast("Message", replace(cast("Any", message), blob=blob)) if blob else message


def join_blobs(blobs: Sequence[bytes]) -> bytes:
    """Several blobs as one; `split_blobs` takes them apart."""
    return b"".join(piece for blob in blobs for piece in (_LENGTH.pack(len(blob)), blob))


def split_blobs(blob: bytes) -> list[bytes]:
    """What was given to `join_blobs`."""
    blobs, at = [], 0
    while at < len(blob):
        (length,) = _LENGTH.unpack_from(blob, at)
        blobs.append(blob[at + _LENGTH.size : at + _LENGTH.size + length])
        at += _LENGTH.size + length
    return blobs


class Parser:
    """Bytes in, the messages that are whole now out; `lacks` bytes at least are needed for the next one."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self.lacks = _HEAD.size

    def feed(self, data: bytes) -> Iterator[Message]:
        """The messages that end in `data`, in order. Raises BrokenProtocol and RecordCorrupt where no message is."""
        self._pieces.append(data)
        self.lacks -= len(data)
        if self.lacks > 0:  # a large message is put together once, when all of it is there
            return
        data, at = b"".join(self._pieces), 0
        while True:
            body = at + _HEAD.size
            if (lacks := body - len(data)) > 0:
                break
            length, size, kind = _unpack_head(data[at:body])
            blob, end = body + length, body + length + size
            if (lacks := end - len(data)) > 0:
                break
            yield _unpack(kind, data[body:blob], data[blob:end])
            at = end
        self._pieces, self.lacks = [data[at:]], lacks
