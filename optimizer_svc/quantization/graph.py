"""What quantization has to know of a graph, and what it does to the files of all tools alike."""

from __future__ import annotations

import numpy as np
import onnx

from gramserve.runtime.engines import INPUT
from optimizer_svc.onnx_graph import ARITHMETIC, Graph, fresh_names

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


def input_nodes(proto: onnx.ModelProto) -> list[str]:
    """The names of the nodes between the input and the first arithmetic: they normalise.

    In int8 they would round the very pixels for no gain: only their result is quantized, once, for the first layer.
    """
    reached, names = {INPUT}, []
    for node in proto.graph.node:
        if node.op_type not in ARITHMETIC and reached & set(node.input):
            reached |= set(node.output)
            names.append(node.name)
    return names


def activation_products(proto: onnx.ModelProto) -> list[str]:
    """The names of the matrix products without weights: attention."""
    graph = Graph(proto)
    return [
        node.name
        for node in proto.graph.node
        if node.op_type == "MatMul" and not any(name in graph.constants for name in node.input)
    ]


def float_embeddings(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Without rounding of what a convolution gives to a Transpose, Reshape or Flatten: the patches of a transformer.

    They go on in fp32, and openvino takes the rounding to what they are put together with.
    """
    graph = Graph(proto)
    for node in proto.graph.node:
        quantize = graph.only_reader(node.output[0]) if node.op_type == "Conv" else None
        dequantize = graph.only_reader(quantize.output[0]) if quantize and quantize.op_type == QUANTIZE else None
        if dequantize is None or dequantize.op_type != DEQUANTIZE:
            continue
        readers = graph.consumers.get(dequantize.output[0], [])
        if readers and all(r.op_type in {"Flatten", "Reshape", "Transpose"} for r in readers):
            for reader in readers:
                reader.input[0] = node.output[0]
    graph.refresh()
    return proto


def float_patches(proto: onnx.ModelProto, fp32: onnx.ModelProto) -> onnx.ModelProto:
    """The convolution that makes patches of pixels as it is in `fp32`, on inputs that are not rounded.

    It does little of the work, and openvino would move its scales through all residual sums into the weights of the
    layers that end there: half of the matrix products of DeiT would be computed in fp32.
    """
    graph, before = Graph(proto), Graph(fp32)
    originals = {node.name: node for node in fp32.graph.node if node.op_type == "Conv"}
    graph.sort_and_prune()  # a reader that nobody reads would hide what becomes of the patches
    names = fresh_names("patches", [*graph.constants, *graph.producers, *graph.inputs])
    for node in proto.graph.node:
        readers = graph.consumers.get(node.output[0], [])
        moved = bool(readers) and all(r.op_type in {"Flatten", "Reshape", "Shape", "Transpose"} for r in readers)
        if node.op_type != "Conv" or not moved or not _shows_pixels(graph, node.input[0]):
            continue
        source = graph.producers.get(node.input[0])
        if source is not None and source.op_type == DEQUANTIZE:
            node.input[0] = graph.producers[source.input[0]].input[0]
        for i, name in enumerate(originals[node.name].input[1:] if node.name in originals else ()):
            node.input[1 + i] = graph.add_constant(next(names), before.value(name))
    graph.sort_and_prune()
    return proto


def _shows_pixels(graph: Graph, name: str) -> bool:
    """Whether there is no arithmetic between the input and this tensor; nodes need not stand in an order."""
    while name != INPUT:
        node = graph.producers.get(name)
        if node is None or node.op_type in ARITHMETIC:
            return False
        name = next((n for n in node.input if n not in graph.constants), "")
    return True


def with_activations(proto: onnx.ModelProto, *, signed: bool) -> onnx.ModelProto:
    """The same numbers with all activations int8 (`signed`) or all uint8: zero points move by 128.

    onnxruntime has its fast convolutions for uint8 alone; openvino multiplies matrices faster in int8, and there
    onnxruntime does not mind.
    """
    graph = Graph(proto)
    names = fresh_names("zero_", [*graph.constants, *graph.producers])
    unwanted, shift, wanted = (np.uint8, -128, np.int8) if signed else (np.int8, 128, np.uint8)
    for node in proto.graph.node:
        if node.op_type != QUANTIZE or node.input[0] in graph.constants or len(node.input) < 3:
            continue
        zero = graph.value(node.input[2])
        readers = graph.consumers.get(node.output[0], [])
        if zero.dtype != unwanted or not all(r.op_type == DEQUANTIZE for r in readers):
            continue
        moved = graph.add_constant(next(names), (zero.astype(np.int16) + shift).astype(wanted))
        for reader in (node, *readers):
            reader.input[2] = moved
    return proto
