"""The widths of a network's layers: what pruning changes, as data that rebuilds the pruned network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import nn

from gramserve.errors import InvalidInput, Reason

# Layer name -> its widths by attribute. JSON-ready; with safetensors it replaces the pickles of torch-pruning.
Widths: TypeAlias = dict[str, dict[str, int]]

# The attributes of each kind of layer that hold a width. A new kind of prunable layer is one entry.
ATTRIBUTES: tuple[tuple[type[nn.Module], tuple[str, ...]], ...] = (
    (nn.Conv2d, ("in_channels", "out_channels", "groups")),
    (nn.Linear, ("in_features", "out_features")),
    (nn.modules.batchnorm._BatchNorm, ("num_features",)),
    (nn.GroupNorm, ("num_channels", "num_groups")),
)


def widths_of(model: nn.Module) -> Widths:
    """The widths of every layer that has some."""
    return {
        name: {attribute: int(getattr(module, attribute)) for attribute in attributes}
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
    for name, values in widths.items():
        for attribute, value in values.items():
            setattr(modules[name], attribute, value)
    for name, module in modules.items():
        prefix = f"{name}." if name else ""
        for key, parameter in list(module.named_parameters(recurse=False)):
            shape = shapes.get(prefix + key, parameter.shape)
            if shape != parameter.shape:
                setattr(module, key, nn.Parameter(torch.zeros(shape)))
        for key, buffer in list(module.named_buffers(recurse=False)):
            shape = shapes.get(prefix + key, buffer.shape)
            if shape != buffer.shape:
                module.register_buffer(key, torch.zeros(shape))
        if isinstance(module, nn.LayerNorm) and module.elementwise_affine:
            module.normalized_shape = tuple(module.weight.shape)
