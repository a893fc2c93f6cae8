"""Who makes and who reads each tensor of an ONNX graph."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

# The layers that do the arithmetic: what quantization is for.
ARITHMETIC = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# Their nonlinearities that int8 kernels do for nothing: they vanish into the range of the layer before them.
CLAMPS = ("Relu", "Clip")
# What only moves numbers about, so that rounding before or after it is the same.
MOVES = (
    "Concat",
    "Expand",
    "Flatten",
    "Gather",
    "Identity",
    "MaxPool",
    "Pad",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
)


class Graph:
    """An index of the main graph of `proto`; edit the proto through it, or `refresh` after editing it directly."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.proto = proto
        self.refresh()

    def refresh(self) -> None:
        """Read the proto again."""
        graph = self.proto.graph
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.inputs = {value.name for value in graph.input} - set(self.constants)
        self.outputs = {value.name for value in graph.output}
        self.producers: dict[str, onnx.NodeProto] = {}
        self.consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            self.producers.update((name, node) for name in node.output if name)
            for name in set(node.input) - {""}:
                self.consumers.setdefault(name, []).append(node)

    def value(self, name: str) -> NDArray[np.generic]:
        """The constant of that name."""
        return numpy_helper.to_array(self.constants[name])

    def add_constant(self, name: str, value: NDArray[np.generic]) -> str:
        """Adds a constant and gives its name, which must be new."""
        tensor = numpy_helper.from_array(value, name)
        self.proto.graph.initializer.append(tensor)
        self.constants[name] = self.proto.graph.initializer[-1]
        return name

    def only_reader(self, name: str) -> onnx.NodeProto | None:
        """The node that reads the tensor when no other reads its numbers and it is not an output of the model."""
        readers = [node for node in self.consumers.get(name, []) if node.op_type != "Shape"]
        return readers[0] if len(readers) == 1 and name not in self.outputs else None

    def sort_and_prune(self) -> None:
        """Drops nodes and constants that no output needs and puts the rest in an order that can be run."""
        graph = self.proto.graph
        producers = {name: node for node in graph.node for name in node.output if name}
        ordered: list[onnx.NodeProto] = []
        done: set[int] = set()
        stack = [(name, False) for name in reversed([value.name for value in graph.output])]
        while stack:
            name, ready = stack.pop()
            node = producers.get(name)
            if node is None or id(node) in done:
                continue
            if ready:
                done.add(id(node))
                ordered.append(node)
                continue
            stack.append((name, True))
            stack.extend((needed, False) for needed in reversed(needs(node)))
        copies = []
        for node in ordered:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copies.append(copy)
        del graph.node[:]
        graph.node.extend(copies)
        used = {name for node in copies for name in needs(node)} | {value.name for value in graph.output}
        kept = [tensor for tensor in graph.initializer if tensor.name in used]
        if len(kept) < len(graph.initializer):
            kept = [_copy(tensor) for tensor in kept]
            del graph.initializer[:]
            graph.initializer.extend(kept)
        self.refresh()


def needs(node: onnx.NodeProto) -> list[str]:
    """Every tensor that a node reads, those of the graphs inside it too."""
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            names += [name for inner in graph.node for name in needs(inner)]
            names += [value.name for value in graph.output]
    return names


def fresh_names(stem: str, taken: Iterable[str]) -> Iterator[str]:
    """stem1, stem2 ... without those that are taken."""
    used = set(taken)
    number = 0
    while True:
        number += 1
        if f"{stem}{number}" not in used:
            yield f"{stem}{number}"


def _copy(tensor: onnx.TensorProto) -> onnx.TensorProto:
    made = onnx.TensorProto()
    made.CopyFrom(tensor)
    return made
