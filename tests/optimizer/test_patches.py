"""The first layer of a transformer stays fp32, so that openvino computes all others in int8."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from optimizer_svc.architecture import build_model, default_input
from optimizer_svc.export import export
from optimizer_svc.onnx_graph import Graph
from optimizer_svc.quantization import RECIPES, quantize


@pytest.fixture(scope="module")
def fp32() -> bytes:
    torch.manual_seed(0)
    tiles = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), np.uint8)
    return export(build_model("test_vit", 5, 64).eval(), default_input("test_vit"), tiles).model


@pytest.mark.parametrize("recipe", ["int8_channel_core", "nncf_core"])
def test_patches_are_made_in_fp32_and_every_layer_after_them_is_int8(fp32: bytes, recipe: str) -> None:
    tiles = np.random.default_rng(1).integers(0, 256, (8, 64, 64, 3), np.uint8)
    graph = Graph(onnx.load_model_from_string(quantize(fp32, RECIPES[recipe], tiles, transformer=True)))
    nodes = graph.proto.graph.node
    (patches,) = [node for node in nodes if node.op_type == "Conv"]
    assert graph.value(patches.input[1]).dtype == np.float32
    assert graph.producers[patches.input[0]].op_type != "DequantizeLinear"
    weights = [graph.producers.get(n.input[1]) for n in nodes if n.op_type in {"Gemm", "MatMul"}]
    stored = [w for w in weights if w is not None and w.input[0] in graph.constants]
    assert len(stored) >= 8
    assert all(w.op_type == "DequantizeLinear" for w in stored)
