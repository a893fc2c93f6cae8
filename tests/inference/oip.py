"""Requests of the Open Inference Protocol, and a caller that sends them to a worker under test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import numpy as np
from numpy.typing import NDArray

from gramserve.errors import GramserveError
from gramserve.oip import open_inference_pb2 as pb
from gramserve.oip.open_inference_pb2_grpc import GRPCInferenceServiceStub
from gramserve.rpc.channel import open_channel
from gramserve.rpc.status import from_rpc_error
from inference_svc.app import App
from tests.artifacts import COLOURS

DTYPES = {"FP32": np.dtype("<f4"), "INT32": np.dtype("<i4")}


def tiles_of(labels: Sequence[str], input_px: int = 32) -> NDArray[np.uint8]:
    """One tile of the colour of each label, uint8 [N, S, S, 3]."""
    return np.stack([np.full((input_px, input_px, 3), COLOURS[label], np.uint8) for label in labels])


def tile_request(tiles: NDArray[np.uint8] | NDArray[np.float32], model: str = "gram") -> pb.ModelInferRequest:
    """A request with tiles as raw contents, as clients send them."""
    datatype = "UINT8" if tiles.dtype == np.uint8 else "FP32"
    request = pb.ModelInferRequest(model_name=model, raw_input_contents=[tiles.tobytes()])
    request.inputs.add(name="tiles", datatype=datatype, shape=tiles.shape)
    return request


def image_request(images: Sequence[bytes], model: str = "gram.images") -> pb.ModelInferRequest:
    """A request with encoded images as raw contents, each behind its length."""
    raw = b"".join(len(image).to_bytes(4, "little") + image for image in images)
    request = pb.ModelInferRequest(model_name=model, raw_input_contents=[raw])
    request.inputs.add(name="images", datatype="BYTES", shape=[len(images)])
    return request


def output(response: pb.ModelInferResponse, name: str) -> NDArray[np.float32] | NDArray[np.int32]:
    """An output tensor of a response."""
    index = [tensor.name for tensor in response.outputs].index(name)
    tensor = response.outputs[index]
    values = np.frombuffer(response.raw_output_contents[index], DTYPES[tensor.datatype])
    return values.reshape(tuple(tensor.shape))


@asynccontextmanager
async def caller(app: App) -> AsyncIterator[GRPCInferenceServiceStub]:
    """A stub on a connection of its own."""
    async with open_channel(f"127.0.0.1:{app.port}") as channel:
        yield GRPCInferenceServiceStub(channel)


async def refusal(call: grpc.aio.UnaryUnaryCall[pb.ModelInferRequest, pb.ModelInferResponse]) -> GramserveError:
    """The error that a call ends with."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error)
    raise AssertionError("the call was answered")
