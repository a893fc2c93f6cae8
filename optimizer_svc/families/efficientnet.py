"""EfficientNet and what else timm builds from its class."""

from __future__ import annotations

from timm.models.efficientnet import EfficientNet

from optimizer_svc.families.family import Family

FAMILY = Family(name="EfficientNet", matches=lambda model, _architecture: isinstance(model, EfficientNet))
