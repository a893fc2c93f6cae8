"""PoolFormer: MetaFormers whose tokens are mixed by pooling."""

from __future__ import annotations

from typing import Any

from timm.models.metaformer import MetaFormer, MetaFormerBlock, Pooling, Scale
from torch import nn

from optimizer_svc.families.family import Family


def _matches(model: nn.Module, _architecture: str) -> bool:
    blocks: list[Any] = [module for module in model.modules() if isinstance(module, MetaFormerBlock)]
    return isinstance(model, MetaFormer) and all(isinstance(block.token_mixer, Pooling) for block in blocks)


def _settle_scale(scale: Any) -> None:
    scale.shape = (int(scale.scale.shape[0]), *scale.shape[1:])


FAMILY = Family(name="PoolFormer", matches=_matches, settle={Scale: _settle_scale})
