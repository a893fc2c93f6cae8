"""MLServer's runtime for the model: a class of its own, as MLServer has none for ONNX."""

from __future__ import annotations

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.peers.session import OUTPUT, infer, open_session


class OnnxRuntime(MLModel):
    """One session in each of MLServer's inference workers."""

    async def load(self) -> bool:
        """Opens the model that the settings name."""
        self._session = open_session(self.settings.parameters.uri)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """One request, one run."""
        logits = infer(self._session, NumpyCodec.decode_input(payload.inputs[0]))
        return InferenceResponse(
            id=payload.id, model_name=self.name, outputs=[NumpyCodec.encode_output(OUTPUT, logits)]
        )
