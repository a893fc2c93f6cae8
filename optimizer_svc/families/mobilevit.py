"""MobileViT and MobileViT v2: inverted residuals, with transformers over the pixels of a patch between them."""

from __future__ import annotations

from typing import Any

from timm.layers.attention import Attention
from timm.models.mobilevit import LinearSelfAttention, MobileVitBlock, MobileVitV2Block
from torch import nn

from optimizer_svc.families.blocks import attention, attention_ends, hidden, mlp_ends, settle_attention
from optimizer_svc.families.dimensions import Dimension, Prunable, Wires, spread
from optimizer_svc.families.family import Family


def _dimensions(model: nn.Module) -> tuple[Prunable, ...]:
    wires = Wires(model)
    found: list[Prunable] = []
    for name, module in model.named_modules():
        if not isinstance(module, MobileVitBlock | MobileVitV2Block):
            continue
        block: Any = module
        stream = wires.outputs(block.conv_1x1) + wires.norm(block.norm) + wires.inputs(block.conv_proj.conv)
        for layer in block.transformer:
            stream += wires.norm(layer.norm1) + wires.norm(layer.norm2) + mlp_ends(wires, layer.mlp)
            if isinstance(layer.attn, LinearSelfAttention):
                stream += wires.inputs(layer.attn.qkv_proj) + wires.outputs(layer.attn.out_proj)
                found.append(_linear_attention(wires, layer.attn))
            else:
                stream += attention_ends(wires, layer.attn)
                found.append(attention(wires, layer.attn, kind="attention"))
            found.append(hidden(wires, layer.mlp))
        found.append(Dimension(f"{name}.transformer", "stream", int(block.conv_1x1.weight.shape[0]), stream))
    return tuple(found)


def _linear_attention(wires: Wires, layer: Any) -> Dimension:
    """Keys and values of the linear attention of MobileViT v2; its single query (row 0) stays."""
    width = int(layer.out_proj.weight.shape[1])
    parts = wires.outputs(layer.qkv_proj, spread(width, (1, 1 + width))) + wires.inputs(layer.out_proj)
    return Dimension(wires.name(layer), "linear attention", width, parts)


def _settle_linear_attention(layer: Any) -> None:
    layer.embed_dim = int(layer.out_proj.weight.shape[1])


FAMILY = Family(
    name="MobileViT",
    matches=lambda model, _architecture: any(
        isinstance(module, MobileVitBlock | MobileVitV2Block) for module in model.modules()
    ),
    transformer=True,
    dimensions=_dimensions,
    attributes=((Attention, ("num_heads", "head_dim", "attn_dim")), (LinearSelfAttention, ("embed_dim",))),
    settle={Attention: settle_attention, LinearSelfAttention: _settle_linear_attention},
)
