"""BEiT and BEiT v2: as ViT, with relative positions and an attention as wide as its stream."""

from __future__ import annotations

from typing import Any

from timm.models.beit import Attention, Beit
from torch import nn

from optimizer_svc.families.blocks import attention, attention_ends, hidden, mlp_ends, settle_attention
from optimizer_svc.families.dimensions import CannotPrune, Dimension, Prunable, Wires
from optimizer_svc.families.family import Family

STREAM = "embedding"


def _dimensions(model: nn.Module) -> tuple[Prunable, ...]:
    beit: Any = model
    if beit.rel_pos_bias is not None:
        raise CannotPrune("its blocks share one table of relative positions")
    wires = Wires(model)
    stream = wires.outputs(beit.patch_embed.proj) + wires.norm(beit.patch_embed.norm)
    for token in ("cls_token", "pos_embed"):
        stream += wires.along(beit, token, -1)
    inside: list[Prunable] = []
    for block in beit.blocks:
        stream += wires.norm(block.norm1) + attention_ends(wires, block.attn) + wires.along(block, "gamma_1")
        stream += wires.norm(block.norm2) + mlp_ends(wires, block.mlp) + wires.along(block, "gamma_2")
        # timm shapes the heads back to the width of the stream: whole heads leave with as many channels of it.
        inside += [attention(wires, block.attn, kind="attention", follows=STREAM), hidden(wires, block.mlp)]
    stream += wires.norm(beit.norm) + wires.norm(beit.fc_norm) + wires.inputs(beit.head)
    width, heads = int(beit.patch_embed.proj.weight.shape[0]), int(beit.blocks[0].attn.num_heads)
    return (Dimension(STREAM, STREAM, width, stream, step=width // heads), *inside)


FAMILY = Family(
    name="BEiT",
    matches=lambda model, _architecture: isinstance(model, Beit),
    transformer=True,
    traced=False,
    dimensions=_dimensions,
    attributes=((Attention, ("num_heads",)),),
    settle={Attention: settle_attention},
)
