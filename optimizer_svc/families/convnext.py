"""ConvNeXt and ConvNeXt v2."""

from __future__ import annotations

from timm.models.convnext import ConvNeXt

from optimizer_svc.families.family import Family

FAMILY = Family(name="ConvNeXt", matches=lambda model, _architecture: isinstance(model, ConvNeXt))
