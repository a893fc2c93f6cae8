"""MobileNetV2 and MobileNetV3: inverted residuals around depthwise convolutions."""

from __future__ import annotations

from timm.models.efficientnet import EfficientNet
from timm.models.mobilenetv3 import MobileNetV3
from torch import nn

from optimizer_svc.families.family import Family


def _matches(model: nn.Module, architecture: str) -> bool:
    # timm builds MobileNetV2 from the class of EfficientNet: only the name tells them apart.
    second = isinstance(model, EfficientNet) and architecture.startswith("mobilenetv2")
    return second or isinstance(model, MobileNetV3)


FAMILY = Family(name="MobileNetV2 and V3", matches=_matches)
