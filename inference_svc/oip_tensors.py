"""Tensors of the Open Inference Protocol: what a request brings, checked, and what a response takes along."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gramserve.errors import InvalidInput, Reason
from gramserve.oip.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from inference_svc.oip_contract import BYTES, FP32, IMAGES, INT32, OUTPUTS, TILES, UINT8, split

_LENGTH_BYTES = 4
_DTYPES: dict[str, np.dtype[np.uint8] | np.dtype[np.float32]] = {UINT8: np.dtype("u1"), FP32: np.dtype("<f4")}
_DATATYPES = {"f": FP32, "i": INT32}


def read_input(request: ModelInferRequest, input_px: int) -> NDArray[np.uint8] | list[bytes]:
    """The tiles, uint8 RGB [N, input_px, input_px, 3], or the encoded images, as the model is called; at least one.

    Raises InvalidInput, which names the field that is wrong.
    """
    _, of_images = split(request.model_name)
    name = IMAGES if of_images else TILES
    if len(request.inputs) != 1:
        raise _wrong("inputs", f'must be one tensor, "{name}"')
    tensor = request.inputs[0]
    if tensor.name != name:
        raise _wrong("inputs[0].name", f'must be "{name}"')
    if tensor.parameters:
        raise _wrong("inputs[0].parameters", "must be empty: there is no shared memory")
    raws = request.raw_input_contents
    if raws and (len(raws) != 1 or tensor.HasField("contents")):
        raise _wrong("raw_input_contents", "must hold one entry for the input, whose own contents are empty then")
    raw = raws[0] if raws else None
    return _images(tensor, raw) if of_images else _tiles(tensor, raw, input_px)


def outputs_of(request: ModelInferRequest) -> Sequence[str]:
    """The names of the outputs that are asked for; all where none is. Raises InvalidInput for one that there is not."""
    if any(output.parameters for output in request.outputs):
        raise _wrong("outputs.parameters", "must be empty: there is no classification and no shared memory")
    names = [output.name for output in request.outputs]
    if not set(names) <= set(OUTPUTS):
        raise _wrong("outputs", f"must be some of {', '.join(OUTPUTS)}")
    return names or OUTPUTS


def add_output(response: ModelInferResponse, name: str, values: NDArray[np.float32] | NDArray[np.int32]) -> None:
    """Put an output tensor into a response, in row-major order, little-endian."""
    response.outputs.add(name=name, datatype=_DATATYPES[values.dtype.kind], shape=values.shape)
    response.raw_output_contents.append(values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes())


def _tiles(tensor: ModelInferRequest.InferInputTensor, raw: bytes | None, input_px: int) -> NDArray[np.uint8]:
    shape = tuple(tensor.shape)
    if len(shape) != 4 or shape[0] < 1 or shape[1:] != (input_px, input_px, 3):
        raise _wrong("inputs[0].shape", f"must be [N, {input_px}, {input_px}, 3]: N tiles of RGB, at least one")
    dtype = _DTYPES.get(tensor.datatype)
    if dtype is None:
        raise _wrong("inputs[0].datatype", f"must be {UINT8} or {FP32}")
    size = math.prod(shape)
    if raw is not None:
        if len(raw) != size * dtype.itemsize:
            raise _wrong("raw_input_contents[0]", f"must have {size * dtype.itemsize} bytes for this shape")
        values: NDArray[Any] = np.frombuffer(raw, dtype)
    else:
        contents = tensor.contents.uint_contents if tensor.datatype == UINT8 else tensor.contents.fp32_contents
        if len(contents) != size:
            raise _wrong("inputs[0].contents", f"must have {size} elements for this shape")
        values = np.fromiter(contents, np.float32, size)
    return _as_uint8(values).reshape(shape)


def _as_uint8(values: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.uint8]:
    """Values of pixels as bytes; those with a fraction go to the nearest."""
    if values.dtype == np.uint8:
        return np.asarray(values, np.uint8)
    if not ((values >= 0) & (values <= 255)).all():  # a NaN is neither
        raise _wrong(f"the values of {TILES}", "must be 0 to 255: normalisation is part of the model")
    return np.rint(values).astype(np.uint8)


def _images(tensor: ModelInferRequest.InferInputTensor, raw: bytes | None) -> list[bytes]:
    shape = tuple(tensor.shape)
    if len(shape) not in {1, 2} or shape[0] < 1 or shape[1:] not in {(), (1,)}:
        raise _wrong("inputs[0].shape", "must be [N] or [N, 1]: N encoded images, at least one")
    if tensor.datatype != BYTES:
        raise _wrong("inputs[0].datatype", f"must be {BYTES}")
    images = list(tensor.contents.bytes_contents) if raw is None else _elements(raw)
    if images is None or len(images) != shape[0]:
        raise _wrong("inputs[0].contents", f"must be {shape[0]} elements for this shape, each behind its length")
    return images


def _elements(raw: bytes) -> list[bytes] | None:
    """The elements of BYTES, each behind its length; None when they do not end where the bytes do."""
    elements, at = [], 0
    while at < len(raw):
        start = at + _LENGTH_BYTES
        at = start + int.from_bytes(raw[at:start], "little")
        elements.append(raw[start:at])
    return elements if at == len(raw) else None


def _wrong(field: str, what: str) -> InvalidInput:
    return InvalidInput(Reason.INVALID_FIELD, f"{field} {what}.", violations=[(field, what)])
