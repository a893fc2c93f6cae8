"""Dimensions of the building blocks that transformer families share."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers.mlp import ConvMlp, GluMlp, Mlp, SwiGLU
from torch import nn

from optimizer_svc.families.dimensions import CannotPrune, Dimension, Heads, Part, Wires, spread, step_of


def attention(wires: Wires, layer: Any, *, kind: str, follows: str = "") -> Heads:
    """The heads of an attention layer with one projection `qkv` to queries, keys and values, in this order."""
    heads, total = int(layer.num_heads), int(layer.qkv.weight.shape[0]) // 3
    queries_keys, values = spread(total, (0, total)), spread(total, (2 * total,))
    qkv_bias = wires.along(layer.qkv, "bias", 0, queries_keys)
    value_bias = wires.along(layer.qkv, "bias", 0, values)
    tables = wires.along(layer, "relative_position_bias_table", 1) + wires.along(layer, "logit_scale", 0)
    mlp = getattr(layer, "cpb_mlp", None)
    return Heads(
        name=wires.name(layer),
        kind=kind,
        heads=heads,
        width=total // heads,
        keys=wires.along(layer.qkv, "weight", 0, queries_keys) + qkv_bias + wires.along(layer, "q_bias"),
        values=wires.along(layer.qkv, "weight", 0, values)
        + value_bias
        + wires.along(layer, "v_bias")
        + wires.outputs(getattr(layer, "gate", None))
        + wires.norm(getattr(layer, "norm", None))
        + wires.inputs(layer.proj),
        per_head=tables + (() if mlp is None else wires.outputs(mlp[-1])),
        # A norm of queries and keys is shared by all heads: it fixes the places within a head.
        narrow=not follows
        and all(isinstance(getattr(layer, n, None), nn.Identity | None) for n in ("q_norm", "k_norm")),
        follows=follows,
    )


def hidden(wires: Wires, mlp: nn.Module) -> Dimension:
    """The hidden features of an MLP. Raises CannotPrune for an MLP of an unknown kind."""
    layers: Any = mlp
    if isinstance(mlp, SwiGLU):
        parts = wires.outputs(layers.fc1_g) + wires.outputs(layers.fc1_x)
    elif isinstance(mlp, GluMlp):  # one layer gives gate and value
        half = layers.fc2.weight.shape[1]
        parts = wires.outputs(layers.fc1, spread(half, (0, half)))
    elif isinstance(mlp, Mlp | ConvMlp):
        parts = wires.outputs(layers.fc1)
    else:
        raise CannotPrune(f"its blocks hold an MLP of an unknown kind ({type(mlp).__name__})")
    parts += wires.norm(layers.norm) + wires.inputs(layers.fc2)
    width = int(layers.fc2.weight.shape[1])
    return Dimension(wires.name(mlp), type(mlp).__name__, width, parts, step_of(width))


def mlp_ends(wires: Wires, mlp: Any) -> tuple[Part, ...]:
    """Where an MLP reads from the residual stream and adds to it."""
    first = (mlp.fc1_g, mlp.fc1_x) if isinstance(mlp, SwiGLU) else (mlp.fc1,)
    return tuple(part for layer in first for part in wires.inputs(layer)) + wires.outputs(mlp.fc2)


def attention_ends(wires: Wires, layer: Any) -> tuple[Part, ...]:
    """Where an attention layer reads from the residual stream and adds to it."""
    return wires.inputs(layer.qkv) + wires.inputs(getattr(layer, "gate", None)) + wires.outputs(layer.proj)


def settle_attention(layer: Any) -> None:
    """Attributes of timm's attention layers that follow from the projection and the number of heads."""
    total = int(layer.qkv.weight.shape[0]) // 3
    width = total // int(layer.num_heads)
    for name, value in (("head_dim", width), ("attn_dim", total)):
        if hasattr(layer, name):
            setattr(layer, name, value)
    # Fused attention scales by the width itself; the unfused path by this number.
    if hasattr(layer, "scale"):
        layer.scale = width**-0.5
    if getattr(layer, "k_bias", None) is not None:  # always zero, and not in the state
        layer.k_bias = torch.zeros_like(layer.q_bias.detach())
