"""A torch model to a small, checked ONNX file: uint8 tiles in, logits out."""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gramserve.errors import ArtifactInvalid, Reason
from gramserve.runtime.engines import INPUT, OUTPUT, open_engine
from gramserve.store.manifest import EngineSettings
from optimizer_svc.architecture import InputSpec
from optimizer_svc.compact import compact, name_layers
from optimizer_svc.onnx_graph import Graph

OPSET = 20
PARITY_BATCHES = (1, 2, 5)
# Largest difference of a logit between torch and onnxruntime in fp32, as a share of the largest logit.
PARITY_TOLERANCE = 1e-3
EXPORT_BATCH = 2  # with a batch of 1 the exporter takes the batch for a constant


@dataclass(frozen=True, slots=True)
class Exported:
    """An ONNX file that passed the parity gate, the exporter that made it and the largest logit difference seen."""

    model: bytes
    exporter: str
    parity: float


class Deployable(nn.Module):
    """The model with its input contract inside: `tiles` uint8 [N, S, S, 3] -> logits float32 [N, C]."""

    def __init__(self, model: nn.Module, spec: InputSpec) -> None:
        super().__init__()
        mean, std = torch.tensor(spec.mean).view(1, 3, 1, 1), torch.tensor(spec.std).view(1, 3, 1, 1)
        self.model = model
        self.register_buffer("mean", 255 * mean)
        self.register_buffer("scale", 1 / (255 * std))

    def forward(self, tiles: Tensor) -> Tensor:
        """See the class."""
        pixels = tiles.permute(0, 3, 1, 2).to(torch.float32)
        logits: Tensor = self.model((pixels - self.get_buffer("mean")) * self.get_buffer("scale"))
        return logits


def export(model: nn.Module, spec: InputSpec, probe: NDArray[np.uint8]) -> Exported:
    """Exports `model` (eval mode) and proves on `probe` tiles (uint8 [5 or more, S, S, 3]) that it computes the same.

    Tries torch's current exporter first and its older one where that fails the gate. Raises ArtifactInvalid
    PARITY_FAILED when neither passes.
    """
    deployable = Deployable(_unfused(model), spec).eval()
    example = torch.from_numpy(probe[:EXPORT_BATCH])
    worst = float("inf")
    for name, exporter in EXPORTERS.items():
        try:
            proto = _quiet(exporter, deployable, example)
            data = compact(fold_scale(name_layers(proto)), named=True).SerializeToString()
            difference = parity(deployable, data, probe)
        except ArtifactInvalid:
            continue
        except Exception:  # noqa: S112 - an exporter may fail in any way; the next one may not
            continue
        if difference <= PARITY_TOLERANCE:
            return Exported(data, name, difference)
        worst = min(worst, difference)
    raise ArtifactInvalid(
        Reason.PARITY_FAILED,
        f"The exported model does not compute what the checkpoint computes: off by {worst:.2g} of the largest logit.",
        metadata={"difference": f"{worst:.3g}", "tolerance": f"{PARITY_TOLERANCE:.3g}"},
    )


def _unfused(model: nn.Module) -> nn.Module:
    """A copy whose attention is written out: of fused attention with a bias torch exports no working graph."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if getattr(module, "fused_attn", False):
            module.fused_attn = False  # type: ignore[assignment]  # timm's switch
    return model


def parity(model: nn.Module, onnx_model: bytes, probe: NDArray[np.uint8]) -> float:
    """Largest logit difference between torch and onnxruntime at several batch sizes, relative to the largest logit.

    `model` takes uint8 tiles, as `Deployable` does. Infinite when the shapes differ or a number is not finite.
    """
    engine = open_engine(onnx_model, EngineSettings(name="onnxruntime"))
    worst = 0.0
    for size in PARITY_BATCHES:
        tiles = np.ascontiguousarray(probe[:size])
        with torch.inference_mode():
            wanted = model(torch.from_numpy(tiles)).numpy()
        given = engine.run(tiles)
        if given.shape != wanted.shape or not np.isfinite(given).all():
            return float("inf")
        worst = max(worst, float(np.abs(given - wanted).max() / max(1e-6, float(np.abs(wanted).max()))))
    return worst


def fold_scale(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the division by the standard deviation inside the weights of its first convolution, if it has one.

    What is left before it is the subtraction of the mean: it stays, because a convolution that pads with zeros pads
    with the mean colour. Where anything but one convolution with constant weights reads the input, nothing changes.
    """
    graph = Graph(proto)
    (tiles,) = graph.inputs
    reached, scale = tiles, None
    while (node := graph.only_reader(reached)) is not None and node.op_type in {"Transpose", "Cast", "Sub", "Mul"}:
        reached = node.output[0]
        if node.op_type == "Mul":
            scale = node
    if scale is None or node is None or node.op_type != "Conv" or reached != scale.output[0]:
        return proto
    factor = next((name for name in scale.input if name in graph.constants), "")
    if not factor or node.input[1] not in graph.constants or graph.value(factor).shape != (1, 3, 1, 1):
        return proto
    folded = graph.value(node.input[1]).astype(np.float64) * graph.value(factor).astype(np.float64)
    node.input[1] = graph.add_constant(f"{node.input[1]}_folded", folded.astype(np.float32))
    node.input[0] = next(name for name in scale.input if name != factor)
    return proto


def _by_dynamo(model: nn.Module, example: Tensor) -> onnx.ModelProto:
    program = torch.onnx.export(
        model,
        (example,),
        dynamo=True,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes={"tiles": {0: torch.export.Dim("batch", min=1, max=4096)}},
        opset_version=OPSET,
        external_data=False,
        optimize=True,
        verbose=False,
    )
    assert program is not None
    proto: onnx.ModelProto = program.model_proto
    return proto


def _by_tracing(model: nn.Module, example: Tensor) -> onnx.ModelProto:
    file = io.BytesIO()
    torch.onnx.export(
        model,
        (example,),
        file,  # type: ignore[arg-type]  # the older exporter writes to a buffer too
        dynamo=False,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}},
        opset_version=17,
    )
    return onnx.load_model_from_string(file.getvalue())


EXPORTERS: dict[str, Callable[[nn.Module, Tensor], onnx.ModelProto]] = {"dynamo": _by_dynamo, "tracing": _by_tracing}


def _quiet(
    exporter: Callable[[nn.Module, Tensor], onnx.ModelProto], model: nn.Module, example: Tensor
) -> onnx.ModelProto:
    """Runs an exporter without its many warnings: what counts is the parity gate."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return exporter(model, example)
    finally:
        logging.disable(before)
