"""Swin and Swin v2: attention in windows, one residual stream for each stage."""

from __future__ import annotations

from typing import Any

from timm.models.swin_transformer import SwinTransformer, WindowAttention
from timm.models.swin_transformer_v2 import SwinTransformerV2
from timm.models.swin_transformer_v2 import WindowAttention as WindowAttentionV2
from torch import nn

from optimizer_svc.families.blocks import attention, attention_ends, hidden, mlp_ends, settle_attention
from optimizer_svc.families.dimensions import STEP, Dimension, Prunable, Wires, spread
from optimizer_svc.families.family import Family


def _dimensions(model: nn.Module) -> tuple[Prunable, ...]:
    swin: Any = model
    wires = Wires(model)
    second = isinstance(model, SwinTransformerV2)
    streams: list[Dimension] = []
    inside: list[Prunable] = []
    for number, stage in enumerate(swin.layers):
        name = f"stage {number + 1}"
        source = swin.patch_embed.proj if number == 0 else stage.downsample.reduction
        width, parts = int(source.weight.shape[0]), wires.outputs(source)
        if number == 0:
            parts += wires.norm(swin.patch_embed.norm)
        elif second:
            parts += wires.norm(stage.downsample.norm)
        for block in stage.blocks:
            parts += wires.norm(block.norm1) + attention_ends(wires, block.attn)
            parts += wires.norm(block.norm2) + mlp_ends(wires, block.mlp)
            # Swin v2 shapes its heads back to the width of the stream: whole heads leave with as many channels of it.
            follows = name if second else ""
            inside += [attention(wires, block.attn, kind="attention", follows=follows), hidden(wires, block.mlp)]
        if number + 1 < len(swin.layers):  # the next stage reads four neighbours, one after the other
            merge = swin.layers[number + 1].downsample
            four = spread(width, (0, width, 2 * width, 3 * width))
            parts += wires.inputs(merge.reduction, four) + (() if second else wires.norm(merge.norm, four))
        else:
            parts += wires.norm(swin.norm) + wires.inputs(swin.head.fc)
        step = width // int(stage.blocks[0].attn.num_heads) if second else STEP
        streams.append(Dimension(name, "stream", width, parts, step))
    return (*streams, *inside)


FAMILY = Family(
    name="Swin",
    matches=lambda model, _architecture: isinstance(model, SwinTransformer | SwinTransformerV2),
    transformer=True,
    traced=False,
    dimensions=_dimensions,
    attributes=((WindowAttention, ("num_heads",)), (WindowAttentionV2, ("num_heads",))),
    settle={WindowAttention: settle_attention, WindowAttentionV2: settle_attention},
)
