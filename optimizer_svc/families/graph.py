"""The dimensions that torch-pruning's dependency graph finds in a network that it can follow."""

from __future__ import annotations

import copy
import warnings
from collections import defaultdict
from collections.abc import Collection
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn

from optimizer_svc.families.dimensions import Dimension, Part

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def graph_dimensions(
    model: nn.Module, input_px: int, *, keeps: Collection[str], claimed: Collection[tuple[str, int]]
) -> tuple[Dimension, ...]:
    """Channels that must leave together (Fang et al. 2023, "DepGraph: towards any structural pruning").

    The outputs of the layers named in `keeps`, and of what is inside them, stay; so does everything that runs through
    a (tensor, axis) that is `claimed` by another dimension. `model` stays as it is. Raises whatever torch-pruning
    raises where it cannot follow the model.
    """
    traced = copy.deepcopy(model).requires_grad_(True)
    layers = dict(traced.named_modules())
    tensors = {parameter: name for name, parameter in traced.named_parameters()}
    for layer in layers.values():
        if getattr(layer, "fused_attn", False):  # the graph follows plain products only
            layer.fused_attn = False
    kept = [part for name in keeps if name in layers for part in layers[name].modules()]
    # No group starts in the layers of a claimed dimension: it may lead through shapes that the graph cannot follow.
    kept += [layers[tensor.rpartition(".")[0]] for tensor, axis in claimed if axis == 0 and tensor.endswith(".weight")]
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = torch_pruning.DependencyGraph().build_dependency(
            traced, torch.zeros(2, 3, input_px, input_px), customized_pruners={}, ignored_layers=None, verbose=False
        )
        names = {layer: name for name, layer in layers.items()}
        found = []
        for group in graph.get_all_groups(ignored_layers=list(dict.fromkeys(kept))):
            dimension = _dimension(graph, group, names, tensors)
            if dimension is not None and not any((part.tensor, part.axis) in claimed for part in dimension.parts):
                found.append(dimension)
    return tuple(found)


def _dimension(
    graph: Any, group: Any, names: dict[nn.Module, str], tensors: dict[nn.Parameter, str]
) -> Dimension | None:
    """One group as a dimension, or None for one that has to stay whole."""
    root, units = names[group[0].dep.target.module], len(group[0].idxs)
    blocks = {count for item in group if (count := _blocks(item.dep.target.module)) > 1}
    if len(blocks) > 1:
        return None
    # In a grouped convolution or norm the same places of every block leave, so that blocks stay equally wide.
    per_block = units // next(iter(blocks), 1)
    if per_block * next(iter(blocks), 1) != units:
        return None
    parts: list[Part] = []
    kind = []
    for item in group:
        layer, outward = item.dep.target.module, bool(graph.is_out_channel_pruning_fn(item.dep.handler))
        if isinstance(layer, torch_pruning.ops._OutputOp):
            return None
        kind.append(f"{type(layer).__name__}.{'out' if outward else 'in'}")
        tensors_of = _tensors(layer, outward, names, tensors, item.dep.target.pruning_dim)
        if not tensors_of:
            continue
        places: dict[int, list[int]] = defaultdict(list)
        for place, unit in zip(item.idxs, item.root_idxs, strict=True):
            places[unit % per_block].append(place)
        for name, axis, modulus in tensors_of:
            table = _table(places, per_block, modulus)
            if table is None:
                return None
            parts.append(Part(name, axis, table))
    return Dimension(root, " ".join(kind), per_block, tuple(parts))


def _table(places: dict[int, list[int]], units: int, modulus: int) -> Tensor | None:
    """Positions int64 [units, copies], or None where units do not have equally many."""
    rows = [sorted({place % modulus for place in places[unit]} if modulus else places[unit]) for unit in range(units)]
    if not rows or len({len(row) for row in rows}) != 1 or not rows[0]:
        return None
    return torch.tensor(rows)


def _tensors(
    layer: Any, outward: bool, names: dict[nn.Module, str], tensors: dict[nn.Parameter, str], pruning_dim: int
) -> list[tuple[str, int, int]]:
    """(tensor, axis, modulus of positions or 0) of one end of a layer."""
    if isinstance(layer, nn.Parameter):
        return [(tensors[layer], pruning_dim % layer.ndim, 0)]
    if layer not in names:
        return []  # an operation without weights
    prefix = f"{names[layer]}." if names[layer] else ""
    if isinstance(layer, (*CONVOLUTIONS, nn.Linear)):
        if outward or _depthwise(layer):
            return [(f"{prefix}{name}", 0, 0) for name in ("weight", "bias") if getattr(layer, name) is not None]
        return [(f"{prefix}weight", 1, layer.weight.shape[1] if getattr(layer, "groups", 1) > 1 else 0)]
    vectors = ("weight", "bias", "running_mean", "running_var")
    return [(f"{prefix}{name}", 0, 0) for name in vectors if isinstance(getattr(layer, name, None), Tensor)]


def _depthwise(layer: Any) -> bool:
    return isinstance(layer, CONVOLUTIONS) and layer.groups > 1 and layer.groups == layer.in_channels


def _blocks(layer: Any) -> int:
    """Into how many blocks a layer divides its channels."""
    if isinstance(layer, CONVOLUTIONS) and not _depthwise(layer):
        return layer.groups
    return layer.num_groups if isinstance(layer, nn.GroupNorm) else 1
