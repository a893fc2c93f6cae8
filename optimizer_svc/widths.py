"""The widths of a network's layers: what pruning changes, as data that rebuilds the pruned network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from gramserve.errors import InvalidInput, Reason
from optimizer_svc.families import FAMILIES

# Layer name -> its widths by attribute. JSON-ready; with safetensors it replaces the pickles of torch-pruning.
Widths: TypeAlias = dict[str, dict[str, int]]

# The attributes of each kind of layer that hold a width. A new kind of prunable layer is one entry here, or in the
# `attributes` of its family.
ATTRIBUTES: tuple[tuple[type[nn.Module], tuple[str, ...]], ...] = (
    (nn.Conv2d, ("in_channels", "out_channels", "groups")),
    (nn.Linear, ("in_features", "out_features")),
    (nn.modules.batchnorm._BatchNorm, ("num_features",)),
    (nn.GroupNorm, ("num_channels", "num_groups")),
    (nn.LayerNorm, ("normalized_shape",)),
    *(entry for family in FAMILIES for entry in family.attributes),
)


def widths_of(model: nn.Module) -> Widths:
    """The widths of every layer that has some."""
    return {
        name: {attribute: _width(module, attribute) for attribute in attributes}
        for name, module in model.named_modules()
        for kind, attributes in ATTRIBUTES
        if isinstance(module, kind)
    }


def changed_widths(before: Widths, after: Widths) -> Widths:
    """The layers of `after` that are not as wide as in `before`."""
    return {name: widths for name, widths in after.items() if before.get(name) != widths}


def apply_widths(model: nn.Module, widths: Widths, shapes: Mapping[str, torch.Size]) -> None:
    """Gives the layers of `model` their `widths` and its parameters and buffers the `shapes` (by name), all zero.

    Load the pruned weights afterwards. Raises InvalidInput CHECKPOINT_MISMATCH when a layer is not in the model.
    """
    modules = dict(model.named_modules())
    if unknown := sorted(set(widths) - set(modules)):
        raise InvalidInput(Reason.CHECKPOINT_MISMATCH, f"the model has no layer {unknown[0]}")
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    replace_tensors(
        model,
        {
            name: torch.zeros(shapes[name], dtype=tensor.dtype, device=tensor.device)
            for name, tensor in tensors.items()
            if name in shapes and shapes[name] != tensor.shape
        },
    )
    for name, values in widths.items():
        for attribute, value in values.items():
            setattr(modules[name], attribute, (value,) if attribute == "normalized_shape" else value)
    settle(model)


def replace_tensors(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Puts `tensors` (by name) in the place of the model's parameters and buffers; attributes stay as they are."""
    modules = dict(model.named_modules())
    for name, tensor in tensors.items():
        owner, _, key = name.rpartition(".")
        module = modules[owner]
        if key in module._parameters:
            module._parameters[key] = nn.Parameter(tensor)
        else:
            module._buffers[key] = tensor


def fit(model: nn.Module, before: Widths) -> None:
    """Brings every layer's widths into line with its tensors, which were replaced; it had the widths `before`."""
    for name, module in model.named_modules():
        layer: Any = module
        old = before.get(name, {})
        if isinstance(module, nn.Conv2d):
            if old["groups"] == old["in_channels"] > 1:  # depthwise
                layer.groups = int(layer.weight.shape[0]) * old["groups"] // old["out_channels"]
            layer.out_channels, layer.in_channels = (
                int(layer.weight.shape[0]),
                int(layer.weight.shape[1]) * layer.groups,
            )
        elif isinstance(module, nn.Linear):
            layer.out_features, layer.in_features = (int(size) for size in layer.weight.shape)
        elif isinstance(module, nn.modules.batchnorm._BatchNorm) and layer.running_mean is not None:
            layer.num_features = int(layer.running_mean.shape[0])
        elif isinstance(module, nn.GroupNorm) and layer.weight is not None:
            layer.num_channels = int(layer.weight.shape[0])
        elif isinstance(module, nn.LayerNorm) and layer.weight is not None:
            layer.normalized_shape = tuple(layer.weight.shape)
    settle(model)


def settle(model: nn.Module) -> None:
    """Sets what modules remember of widths beside them, as the families say."""
    for module in model.modules():
        for family in FAMILIES:
            for kind, settled in family.settle.items():
                if type(module) is kind:
                    settled(module)


def _width(module: nn.Module, attribute: str) -> int:
    value = getattr(module, attribute)
    return int(value[-1] if isinstance(value, tuple) else value)
