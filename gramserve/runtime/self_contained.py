"""Whether an ONNX model is all in one file: others would have an engine read files of this host."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from gramserve.errors import ArtifactInvalid, Reason

# Fields of onnx.proto that lead to tensors, by message: field number -> message.
_LEADS: Final[dict[str, dict[int, str]]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "Sparse"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "Sparse", 23: "Sparse"},
    "Sparse": {1: "Tensor", 2: "Tensor"},
    "Tensor": {},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # of a Tensor
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5  # wire types of protobuf
_DEEPEST = 64


def check_self_contained(model: bytes) -> None:
    """Raises ArtifactInvalid (ARTIFACT_CORRUPT) for a model with data in other files, or that is no protobuf."""
    try:
        alone = _is_alone(memoryview(model), "Model", 0)
    except (IndexError, ValueError):
        alone = False
    if not alone:
        raise ArtifactInvalid(
            Reason.ARTIFACT_CORRUPT,
            "model.onnx is not one whole model: it is damaged, or names other files.",
            metadata={"file": "model.onnx"},
        )


def _is_alone(message: memoryview, kind: str, depth: int) -> bool:
    if depth > _DEEPEST:
        return False
    leads = _LEADS[kind]
    for number, value in _fields(message):
        if kind == "Tensor" and (number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value != 0)):
            return False
        if number in leads and not (isinstance(value, memoryview) and _is_alone(value, leads[number], depth + 1)):
            return False
    return True


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field; raises IndexError, ValueError."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        wire = key & 7
        value: int | memoryview
        if wire == _VARINT:
            value, at = _varint(message, at)
        else:
            length = {_EIGHT: 8, _FOUR: 4}.get(wire, 0)
            if wire == _BYTES:
                length, at = _varint(message, at)
            elif not length:
                raise ValueError
            if length > len(message) - at:
                raise IndexError
            value = message[at : at + length]
            at += length
        yield key >> 3, value


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """The number at `at`, and where it ends."""
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError
