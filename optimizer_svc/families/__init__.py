"""The families of architectures: what pruning and quantization have to know of each."""

from __future__ import annotations

from torch import nn

from optimizer_svc.families import (
    beit,
    convnext,
    efficientnet,
    mobilenet,
    mobilevit,
    poolformer,
    resnet,
    swin,
    vit,
)
from optimizer_svc.families.dimensions import CannotPrune
from optimizer_svc.families.family import Family

__all__ = ["FAMILIES", "GENERIC", "CannotPrune", "Family", "family_of"]

# The first that matches is taken. A new family is a file and its name here.
FAMILIES: tuple[Family, ...] = tuple(
    module.FAMILY for module in (vit, beit, swin, mobilevit, poolformer, convnext, resnet, mobilenet, efficientnet)
)
GENERIC = Family(name="other", matches=lambda _model, _architecture: True)


def family_of(model: nn.Module, architecture: str) -> Family:
    """The family of `model`, built by timm as `architecture`; GENERIC where none matches."""
    return next((family for family in FAMILIES if family.matches(model, architecture)), GENERIC)
