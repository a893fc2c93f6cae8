"""Messages grown from bytes: whatever the bytes are, a message comes out, and a small change changes a little of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

T = TypeVar("T")

INTEGERS = (0, 1, -1, 2, 7, 1000, 2**31 - 1, -(2**31), 2**31, 2**32, 2**63 - 1, -(2**63))
FLOATS = (0.0, 1.0, -1.0, 0.5, 1e-300, 1e30, -1e30, float("nan"), float("inf"), float("-inf"))
TEXTS = (
    *("", "x", "-", "/", "..", "../../etc/passwd", "\x00", "a\r\nb", "\u202e", "\U0001f9a0"),
    *("x" * 5000, "%s%n", "[" * 3000),
)
DEPTH = 6
_WHOLE = {
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.TYPE_SINT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_SINT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_FIXED32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_FIXED64: (0, 2**64 - 1),
    FieldDescriptor.TYPE_ENUM: (-(2**31), 2**31 - 1),
}


class Dice:
    """Choices taken from bytes; when they are used up every choice is the first."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        """The next `size` bytes, fewer at the end."""
        taken = self._data[self._at : self._at + size]
        self._at += len(taken)
        return taken

    def below(self, number: int) -> int:
        """0 to `number` - 1, up to 256."""
        return int.from_bytes(self.take(1), "big") % number

    def pick(self, choices: Sequence[T]) -> T:
        """One of at most 256 choices."""
        return choices[self.below(len(choices))]


def grow(message: Message, dice: Dice, words: Sequence[str], depth: int = 0) -> None:
    """Fills fields of `message`; `words` are strings that mean something to the service."""
    for field in message.DESCRIPTOR.fields:
        if depth >= DEPTH or not dice.below(3):
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            entries = getattr(message, field.name)
            value = field.message_type.fields_by_name["value"]
            for _ in range(dice.below(4)):
                key = _scalar(field.message_type.fields_by_name["key"], dice, words)
                if value.message_type is not None:
                    grow(entries[key], dice, words, depth + 1)
                else:
                    entries[key] = _scalar(value, dice, words)
        elif field.message_type is not None and field.is_repeated:
            for _ in range(dice.below(4)):
                grow(getattr(message, field.name).add(), dice, words, depth + 1)
        elif field.message_type is not None:
            inner = getattr(message, field.name)
            inner.SetInParent()
            grow(inner, dice, words, depth + 1)
        elif field.is_repeated:
            getattr(message, field.name).extend([_scalar(field, dice, words) for _ in range(dice.below(4))])
        else:
            setattr(message, field.name, _scalar(field, dice, words))


def _scalar(field: FieldDescriptor, dice: Dice, words: Sequence[str]) -> Any:
    if field.type == FieldDescriptor.TYPE_STRING:
        kind = dice.below(4)
        if kind < 2:
            return dice.pick(words)
        return dice.pick(TEXTS) if kind == 2 else dice.take(dice.below(64)).decode(errors="replace")
    if field.type == FieldDescriptor.TYPE_BYTES:
        return dice.take(dice.below(256))
    if field.type == FieldDescriptor.TYPE_BOOL:
        return bool(dice.below(2))
    if field.type in (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT):
        return dice.pick(FLOATS)
    low, high = _WHOLE[field.type]
    return min(max(dice.pick(INTEGERS), low), high)
