"""Requests of the Open Inference Protocol that can never work are refused with the field that is wrong."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from gramserve.errors import InvalidInput
from gramserve.oip.open_inference_pb2 import ModelInferRequest
from inference_svc.oip_tensors import outputs_of, read_input
from tests.inference.oip import image_request, tile_request

TILES = np.arange(2 * 8 * 8 * 3, dtype=np.uint8).reshape(2, 8, 8, 3)
Change = Callable[[ModelInferRequest], object]


def _nan(request: ModelInferRequest) -> None:
    request.inputs[0].datatype = "FP32"
    request.raw_input_contents[0] = np.full(TILES.size, np.nan, np.float32).tobytes()


def _both(request: ModelInferRequest) -> None:
    request.inputs[0].contents.uint_contents.append(1)


def _too_bright(request: ModelInferRequest) -> None:
    del request.raw_input_contents[:]
    request.inputs[0].contents.uint_contents.extend([256] * TILES.size)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda r: r.ClearField("inputs"), "inputs"),
        (lambda r: r.inputs.add(name="tiles"), "inputs"),
        (lambda r: setattr(r.inputs[0], "name", "input"), "inputs[0].name"),
        (lambda r: setattr(r.inputs[0], "datatype", "INT64"), "inputs[0].datatype"),
        (lambda r: r.inputs[0].shape.__setitem__(0, 0), "inputs[0].shape"),
        (lambda r: r.inputs[0].shape.__setitem__(0, -2), "inputs[0].shape"),
        (lambda r: r.inputs[0].shape.__setitem__(1, 9), "inputs[0].shape"),
        (lambda r: r.inputs[0].shape.pop(), "inputs[0].shape"),
        (lambda r: r.inputs[0].parameters["shared_memory_region"].CopyFrom(_text()), "inputs[0].parameters"),
        (lambda r: r.raw_input_contents.append(b""), "raw_input_contents"),
        (lambda r: r.raw_input_contents.__setitem__(0, b"\0"), "raw_input_contents[0]"),
        (lambda r: r.ClearField("raw_input_contents"), "inputs[0].contents"),
        (_both, "raw_input_contents"),
        (_nan, "the values of tiles"),
        (_too_bright, "the values of tiles"),
    ],
)
def test_tiles_that_are_none_are_refused(change: Change, field: str) -> None:
    request = tile_request(TILES)
    change(request)
    with pytest.raises(InvalidInput) as refused:
        read_input(request, 8)
    assert [name for name, _ in refused.value.violations] == [field]


def _text() -> object:
    parameter = ModelInferRequest().parameters["x"]
    parameter.string_param = "region"
    return parameter


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda r: setattr(r.inputs[0], "datatype", "UINT8"), "inputs[0].datatype"),
        (lambda r: r.inputs[0].shape.__setitem__(0, 1), "inputs[0].contents"),
        (lambda r: r.inputs[0].shape.append(2), "inputs[0].shape"),
        (lambda r: r.raw_input_contents.__setitem__(0, r.raw_input_contents[0][:-1]), "inputs[0].contents"),
        (lambda r: r.raw_input_contents.__setitem__(0, r.raw_input_contents[0] + b"\1"), "inputs[0].contents"),
        (lambda r: r.raw_input_contents.__setitem__(0, b"\xff\xff\xff\xffabc"), "inputs[0].contents"),
    ],
)
def test_images_that_are_none_are_refused(change: Change, field: str) -> None:
    request = image_request([b"one", b""])
    assert read_input(request, 8) == [b"one", b""]
    change(request)
    with pytest.raises(InvalidInput) as refused:
        read_input(request, 8)
    assert [name for name, _ in refused.value.violations] == [field]


def test_floats_go_to_the_nearest_pixel_value() -> None:
    floats = np.full((1, 8, 8, 3), 254.6, np.float32)
    read = read_input(tile_request(floats), 8)
    assert isinstance(read, np.ndarray)
    assert (read == 255).all()


def test_outputs_that_there_are_not_are_refused() -> None:
    request = tile_request(TILES)
    assert list(outputs_of(request)) == ["logits", "probabilities", "places"]
    request.outputs.add(name="call")
    with pytest.raises(InvalidInput, match="logits"):
        outputs_of(request)
    request.outputs[0].name = "logits"
    request.outputs[0].parameters["classification"].int64_param = 3
    with pytest.raises(InvalidInput, match="classification"):
        outputs_of(request)
