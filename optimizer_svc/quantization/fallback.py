"""Surgery on a QDQ graph, whichever tool made it: some layers back to fp32."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from optimizer_svc.onnx_graph import ARITHMETIC, CLAMPS, MOVES, Graph
from optimizer_svc.quantization.graph import DEQUANTIZE, QUANTIZE

NO_LAYERS = {*CLAMPS, *MOVES, QUANTIZE, DEQUANTIZE, "Cast", "Shape"}


def quantized_layers(fp32: onnx.ModelProto, int8: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The nodes of `fp32` that read rounded tensors in `int8`, in the order of the graph."""
    graph = Graph(int8)
    names = {
        node.name
        for node in int8.graph.node
        if node.name and node.op_type not in NO_LAYERS and any(_rounded(graph, name) for name in node.input)
    }
    return [node for node in fp32.graph.node if node.name in names and node.op_type not in NO_LAYERS]


def in_fp32(fp32: onnx.ModelProto, int8: onnx.ModelProto, layers: Sequence[str]) -> onnx.ModelProto:
    """A copy of `int8` in which `layers` are the nodes of `fp32`, on inputs that were not rounded for them.

    Both name tensors alike where both have them. ValueError for a name that is no quantized layer.
    """
    known = {node.name: node for node in quantized_layers(fp32, int8)}
    if unknown := sorted(set(layers) - set(known)):
        raise ValueError(f"{unknown[0]} is no quantized layer of this model")
    made = onnx.ModelProto()
    made.CopyFrom(int8)
    surgery = _Surgery(fp32, made)
    surgery.restore_clamps()
    nodes = {node.name: node for node in made.graph.node if node.name in known}
    for name in layers:
        surgery.restore(nodes[name], known[name])
    for name in layers:
        surgery.free_output(nodes[name], set(layers))
    surgery.graph.refresh()
    surgery.graph.sort_and_prune()
    return made


class _Surgery:
    def __init__(self, fp32: onnx.ModelProto, made: onnx.ModelProto) -> None:
        self.before, self.graph = Graph(fp32), Graph(made)
        self.clean: dict[str, str] = {}

    def restore_clamps(self) -> None:
        """Puts back each Relu and Clip that the quantizer left to the range of a tensor."""
        for name, clamp in self.before.producers.items():
            there = self.graph.producers.get(name)
            source = clamp.input[0]
            if clamp.op_type not in CLAMPS or there is None or there.op_type in {clamp.op_type, DEQUANTIZE}:
                continue
            if source in self.graph.producers:
                continue
            there.output[:] = [source if given == name else given for given in there.output]
            self._add(clamp, [source, *(self._constant(n) if n else "" for n in clamp.input[1:])], name)
        self.graph.refresh()

    def restore(self, node: onnx.NodeProto, original: onnx.NodeProto) -> None:
        """Makes `node` compute what `original` does."""
        node.op_type = original.op_type
        node.input[:] = [self.value(name) if name else "" for name in original.input]
        del node.attribute[:]
        node.attribute.extend(original.attribute)

    def value(self, name: str) -> str:
        """The name of the tensor of the int8 graph that holds what `name` is in fp32, not rounded for its reader."""
        if name in self.before.constants:
            return self._constant(name)
        if name in self.graph.inputs:
            return name
        if name not in self.clean:
            original = self.before.producers[name]
            if original.op_type in MOVES or name not in self.graph.producers:
                inputs = [self.value(needed) if needed else "" for needed in original.input]
                there = self.graph.producers.get(name)
                same = there is not None and list(there.input) == inputs
                self.clean[name] = name if same else self._copy(original, inputs, name)
            else:
                self.clean[name] = name
        return self.clean[name]

    def free_output(self, node: onnx.NodeProto, layers: set[str]) -> None:
        """Gives what `node` computes to its readers as it is, where they do not compute in int8."""
        for name in node.output:
            for clamp in self.graph.consumers.get(name, []):
                if clamp.op_type in CLAMPS:
                    self._free(clamp.output[0], layers)
            self._free(name, layers)

    def _free(self, name: str, layers: set[str]) -> None:
        for quantize in self.graph.consumers.get(name, []):
            if quantize.op_type != QUANTIZE or quantize.input[0] != name:
                continue
            for dequantize in self.graph.consumers.get(quantize.output[0], []):
                rounded = dequantize.output[0]
                if rounded in self.graph.outputs:
                    continue
                for reader in self.graph.consumers.get(rounded, []):
                    if self._free_reader(reader, layers):
                        reader.input[:] = [name if given == rounded else given for given in reader.input]

    def _free_reader(self, reader: onnx.NodeProto, layers: set[str]) -> bool:
        """Whether nothing in int8 reads it: neither the node nor what comes after it, if it only moves numbers."""
        if reader.op_type in MOVES:
            after = [n for name in reader.output for n in self.graph.consumers.get(name, [])]
            return all(self._free_reader(n, layers) for n in after)
        return reader.op_type not in ARITHMETIC or reader.name in layers

    def _constant(self, name: str) -> str:
        made = f"{name}_fp32"
        if made not in self.graph.constants:
            self.graph.add_constant(made, self.before.value(name))
        return made

    def _copy(self, original: onnx.NodeProto, inputs: list[str], name: str) -> str:
        """A second node like `original`; gives the name of its output `name`."""
        made = self._add(original, inputs, *(f"{output}_fp32" if output else "" for output in original.output))
        return made.output[list(original.output).index(name)]

    def _add(self, original: onnx.NodeProto, inputs: list[str], *outputs: str) -> onnx.NodeProto:
        node = self.graph.proto.graph.node.add()
        node.CopyFrom(original)
        node.name = ""
        node.input[:] = inputs
        node.output[:] = outputs
        self.graph.producers.update((output, node) for output in outputs if output)
        return node


def _rounded(graph: Graph, name: str) -> bool:
    """Whether a tensor comes out of a DequantizeLinear, perhaps by way of nodes that only move numbers."""
    node = graph.producers.get(name)
    if node is None:
        return False
    if node.op_type in MOVES:
        return _rounded(graph, node.input[0])
    return node.op_type == DEQUANTIZE
