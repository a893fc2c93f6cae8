"""Runs a request of the Open Inference Protocol in a child: tiles as they are, images as the artifact cuts them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from gramserve.errors import InvalidInput, Reason
from gramserve.images.limits import ImageLimits
from gramserve.oip.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from gramserve.runtime.aggregate import probabilities
from gramserve.runtime.artifact import LoadedArtifact
from gramserve.runtime.preprocess import read_field
from gramserve.runtime.readings import Places, Readings
from inference_svc.oip_contract import LOGITS, PLACES, PROBABILITIES
from inference_svc.oip_tensors import add_output, outputs_of, read_input
from inference_svc.protocol import Infer, Inferred


def infer(work: Infer, artifact: LoadedArtifact, limits: ImageLimits, *, clock: Callable[[], float]) -> Inferred:
    """The response of `artifact` to the request of one caller, run whole. `clock` is seconds.

    Raises InvalidInput; SlideFailed, as `Classifier.read` and the decoding of images do.
    """
    began_s = clock()
    try:
        request = ModelInferRequest.FromString(work.blob)
    except DecodeError:
        raise InvalidInput(Reason.INVALID_FIELD, "This is no request of the Open Inference Protocol.") from None
    outputs = outputs_of(request)
    contract = artifact.contract.preprocessing
    given = read_input(request, contract.input_px)
    if isinstance(given, list):
        readings = artifact.read(read_field(image, limits, contract) for image in given)
    else:
        readings = artifact.read_tiles(given)
    read_s = clock()
    version = work.version.rpartition("/")[2]
    response = ModelInferResponse(model_name=request.model_name, model_version=version, id=request.id)
    for name in outputs:
        add_output(response, name, _output(name, readings, artifact))
    blob = response.SerializeToString()
    return Inferred(
        id=work.id,
        tiles=len(readings),
        input_s=read_s - began_s - readings.inference_s,
        infer_s=readings.inference_s,
        output_s=clock() - read_s,
        blob=blob,
    )


def _output(name: str, readings: Readings, artifact: LoadedArtifact) -> NDArray[np.float32] | NDArray[np.int32]:
    """One output, a row for each tile."""
    if name == LOGITS:
        return readings.logits
    if name == PROBABILITIES:
        return probabilities(readings.logits, artifact.contract.calibration.temperature).astype(np.float32)
    assert name == PLACES
    return Places.of(readings.places).rows
