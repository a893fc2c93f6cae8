"""Records as canonical JSON: sorted keys, compact, read back with every field checked."""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Callable, Hashable
from enum import StrEnum
from typing import Any, NoReturn, Self, TypeVar, cast

from gramserve.errors import GramserveError, Reason

R = TypeVar("R")
Reader = Callable[[Any], Any]


class RecordCorrupt(GramserveError):
    """A stored record cannot be read: damaged, or written by something else."""

    def __init__(self, kind: str) -> None:
        super().__init__(
            Reason.INTERNAL,
            f"A stored {kind} is damaged; restore it from a backup.",
            metadata={"record": kind},
        )


class Record:
    """A frozen dataclass that is stored as one JSON object."""

    __slots__ = ()

    def to_json(self) -> bytes:
        """Canonical JSON in ASCII, without a line break: the same record always gives the same bytes."""
        return encode(self)

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Reads what `to_json` wrote; raises RecordCorrupt.

        Unknown keys are ignored and absent ones take the field's default, so that two releases can share a store.
        """
        return decode(cls, data)


def encode(record: object) -> bytes:
    """`record` (a dataclass, or JSON-ready data with some inside) as canonical JSON; NaN and infinity: ValueError."""
    return _ENCODER.encode(record).encode("ascii")


def decode(kind: type[R], data: bytes) -> R:
    """The dataclass `kind` read from JSON; raises RecordCorrupt when a field is absent or of the wrong type."""
    try:
        return cast("R", _reader(cast("Hashable", kind))(_DECODER.decode(data.decode())))
    except (ValueError, TypeError, OverflowError, RecursionError):
        # What the bytes were is not repeated: a record can hold a slide id.
        raise RecordCorrupt(kind.__name__) from None


def field(data: bytes, name: str) -> Any:
    """One field of a record, the others unchecked; raises RecordCorrupt when it is not there."""
    try:
        return _DECODER.decode(data.decode())[name]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise RecordCorrupt(name) from None


@functools.cache
def _field_names(kind: Any) -> tuple[str, ...]:
    return tuple(entry.name for entry in dataclasses.fields(kind))


def _as_dict(record: object) -> dict[str, Any]:
    return {name: getattr(record, name) for name in _field_names(cast("Hashable", type(record)))}


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False, default=_as_dict)
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


@functools.cache
def _reader(hint: Any) -> Reader:  # noqa: PLR0911 - one line for each kind of field
    """The function that checks one JSON value and turns it into the field type `hint`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return lambda value: value
    if hint is float:
        return _read_float
    if hint in {str, int, bool, bytes}:  # JSON has no bytes: a field of that type takes its default
        return functools.partial(_read_exactly, hint)
    if origin is tuple:
        return functools.partial(_read_tuple, _reader(arguments[0]))
    if origin is dict:
        return functools.partial(_read_dict, _reader(arguments[1]))
    if origin is typing.Literal:
        return functools.partial(_read_literal, arguments)
    if origin is types.UnionType:
        return functools.partial(_read_optional, _reader(next(a for a in arguments if a is not type(None))))
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return hint
    hints = typing.get_type_hints(hint)
    fields = [(entry.name, _reader(hints[entry.name]), _is_required(entry)) for entry in dataclasses.fields(hint)]
    return functools.partial(_read_record, hint, fields)


def _is_required(entry: dataclasses.Field[Any]) -> bool:
    return entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING


def _read_exactly(kind: type[Any], value: Any) -> Any:
    if type(value) is not kind:  # a bool is an int to isinstance
        raise TypeError(kind.__name__)
    return value


def _read_float(value: Any) -> float:
    if type(value) is not float and type(value) is not int:
        raise TypeError("float")
    return float(value)


def _read_tuple(item: Reader, value: Any) -> tuple[Any, ...]:
    return tuple(map(item, _read_exactly(list, value)))


def _read_dict(item: Reader, value: Any) -> dict[str, Any]:
    return {key: item(entry) for key, entry in _read_exactly(dict, value).items()}


def _read_literal(allowed: tuple[Any, ...], value: Any) -> Any:
    if value not in allowed:
        raise ValueError("literal")
    return value


def _read_optional(item: Reader, value: Any) -> Any:
    return None if value is None else item(value)


def _read_record(kind: type[Any], fields: list[tuple[str, Reader, bool]], value: Any) -> Any:
    entries = _read_exactly(dict, value)
    values = {}
    for name, reader, required in fields:
        if name in entries:
            values[name] = reader(entries[name])
        elif required:
            raise ValueError(name)
    return kind(**values)
