"""DeiT and ViT: one residual stream through blocks of attention and MLP."""

from __future__ import annotations

from typing import Any

from timm.layers.attention import Attention
from timm.models.vision_transformer import Block, ResPostBlock, VisionTransformer
from torch import nn

from optimizer_svc.families.blocks import attention, attention_ends, hidden, mlp_ends, settle_attention
from optimizer_svc.families.dimensions import CannotPrune, Dimension, Prunable, Wires, step_of
from optimizer_svc.families.family import Family


def _dimensions(model: nn.Module) -> tuple[Prunable, ...]:
    vit: Any = model
    if vit.attn_pool is not None or getattr(vit.patch_embed, "backbone", None) is not None:
        raise CannotPrune("its pooling or patch embedding is a network of its own")
    wires = Wires(model)
    stream = wires.outputs(vit.patch_embed.proj) + wires.norm(vit.patch_embed.norm)
    for token in ("cls_token", "reg_token", "dist_token", "pos_embed"):
        stream += wires.along(vit, token, -1)
    inside: list[Prunable] = []
    for block in vit.blocks:
        if not isinstance(block, Block | ResPostBlock) or type(block.attn) is not Attention:
            raise CannotPrune(f"its blocks are of an unknown kind ({type(block).__name__})")
        stream += wires.norm(block.norm1) + attention_ends(wires, block.attn)
        stream += wires.along(getattr(block, "ls1", None), "gamma") + wires.along(getattr(block, "ls2", None), "gamma")
        stream += wires.norm(block.norm2) + mlp_ends(wires, block.mlp)
        inside += [attention(wires, block.attn, kind="attention"), hidden(wires, block.mlp)]
    for norm in (vit.norm_pre, vit.norm, vit.fc_norm):
        stream += wires.norm(norm)
    stream += wires.inputs(vit.head) + wires.inputs(getattr(vit, "head_dist", None))
    width = int(vit.patch_embed.proj.weight.shape[0])
    return (Dimension("embedding", "embedding", width, stream, step_of(width)), *inside)


FAMILY = Family(
    name="DeiT and ViT",
    matches=lambda model, _architecture: isinstance(model, VisionTransformer),
    transformer=True,
    traced=False,
    dimensions=_dimensions,
    attributes=((Attention, ("num_heads", "head_dim", "attn_dim")),),
    settle={Attention: settle_attention},
)
