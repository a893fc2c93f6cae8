"""The smallest file of an ONNX model: what people noted, long names and what is there twice leave it."""

from __future__ import annotations

import re

import onnx

from optimizer_svc.onnx_graph import ARITHMETIC, CLAMPS, MOVES, Graph, fresh_names, needs

SHORT = re.compile(r"[tw]\d+")
UNNAMED = {*MOVES, *CLAMPS, "Cast", "Constant", "DequantizeLinear", "QuantizeLinear", "Shape"}


def strip(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Removes what the exporter noted for people, which is half of a small model's file; computes the same."""
    proto.doc_string = ""
    proto.producer_name = proto.producer_version = ""
    del proto.metadata_props[:]
    _strip_graph(proto.graph)
    for function in proto.functions:
        function.doc_string = ""
        del function.metadata_props[:]
        del function.value_info[:]
        for node in function.node:
            node.doc_string = ""
            del node.metadata_props[:]
    return proto


def compact(proto: onnx.ModelProto, *, named: bool = False) -> onnx.ModelProto:
    """The same model with short names and every constant once; the model's input and output keep their names.

    Tensors that have a short name keep it, so that a quantized model calls them what its fp32 model does. Node names
    are for people: all stay when `named` (tools need them to tell nodes apart), else those of layers.
    """
    strip(proto)
    _constants_to_initializers(proto)
    _share_constants(proto)
    graph = Graph(proto)
    graph.sort_and_prune()
    if any(attribute.HasField("g") or attribute.graphs for node in proto.graph.node for attribute in node.attribute):
        return proto  # names reach into inner graphs: rare enough to leave such a model as it is
    fixed = graph.inputs | graph.outputs
    names = [*graph.constants, *graph.producers]
    fixed |= {name for name in names if SHORT.fullmatch(name)}
    first = not any(SHORT.fullmatch(name) for name in names)
    stems = {stem: fresh_names(stem, names) for stem in "twq"}
    renamed = {}
    for name in names:
        if name not in fixed:
            renamed[name] = next(stems["q" if not first else "w" if name in graph.constants else "t"])
    for tensor in proto.graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)
    for node in proto.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
        if not named and node.op_type in UNNAMED:
            node.name = ""
    return proto


def name_layers(proto: onnx.ModelProto, prefix: str = "model.") -> onnx.ModelProto:
    """Gives each node the name of the module that it comes from ("blocks.0.attn.qkv"), unique in the model.

    To be done before `strip` removes what the exporter noted of them.
    """
    graph = Graph(proto)
    taken: set[str] = set()
    for node in proto.graph.node:
        base = _module(node, graph, prefix)
        if node.op_type not in ARITHMETIC or not base:
            base = f"{base}.{node.op_type.lower()}".lstrip(".")
        name, number = base, 1
        while name in taken:
            number += 1
            name = f"{base}_{number}"
        taken.add(name)
        node.name = name
    return proto


def _module(node: onnx.NodeProto, graph: Graph, prefix: str) -> str:
    """The path of the module that a node computes, as well as it can be told; without the wrapper around the model."""
    if node.op_type in ARITHMETIC:
        for name in node.input:
            if name in graph.constants and name.startswith(prefix) and name.endswith(".weight"):
                return str(name).removeprefix(prefix).removesuffix(".weight")
    scopes: str = next((p.value for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes"), "")
    modules = re.findall(r"'([^']*)'", scopes)[:-1]
    if modules and modules[-1].startswith(prefix):
        return str(modules[-1]).removeprefix(prefix)
    # The older exporter: "/model/blocks/blocks.5/mlp/fc2/MatMul".
    path: list[str] = []
    for part in node.name.strip("/").split("/")[:-1] if node.name.startswith("/") else ():
        if path and part.startswith(f"{path[-1]}."):
            path.pop()
        path.append(part)
    return ".".join(path).removeprefix(prefix.rstrip(".")).lstrip(".")


def _constants_to_initializers(proto: onnx.ModelProto) -> None:
    kept = []
    values = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "Identity" and node.input[0] in values:
            tensor = onnx.TensorProto.FromString(values[node.input[0]].SerializeToString())
            tensor.name = node.output[0]
            proto.graph.initializer.append(tensor)
            values[tensor.name] = tensor
        elif node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            tensor = node.attribute[0].t
            tensor.name = node.output[0]
            proto.graph.initializer.append(tensor)
        else:
            kept.append(node)
    if len(kept) < len(proto.graph.node):
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
        del proto.graph.node[:]
        proto.graph.node.extend(copies)


def _share_constants(proto: onnx.ModelProto) -> None:
    """One initializer for all constants of one type, shape and value: zero points are many and mostly alike."""
    first: dict[bytes, str] = {}
    same: dict[str, str] = {}
    outputs = {value.name for value in proto.graph.output}
    for tensor in proto.graph.initializer:
        name, tensor.name = tensor.name, ""
        tensor.doc_string = ""
        key = tensor.SerializeToString()
        tensor.name = name
        if name not in outputs:
            same[name] = first.setdefault(key, name)
    inner = {n for node in proto.graph.node for n in needs(node)} - {n for node in proto.graph.node for n in node.input}
    for node in proto.graph.node:
        node.input[:] = [same.get(name, name) if name not in inner else name for name in node.input]


def _strip_graph(graph: onnx.GraphProto) -> None:
    graph.doc_string = ""
    graph.name = "g"
    del graph.metadata_props[:]
    del graph.value_info[:]
    del graph.quantization_annotation[:]
    for value in [*graph.input, *graph.output]:
        value.doc_string = ""
        del value.metadata_props[:]
    for tensor in graph.initializer:
        tensor.doc_string = ""
        del tensor.metadata_props[:]
    for node in graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _strip_graph(attribute.g)
