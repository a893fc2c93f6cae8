"""ResNet and its kin that timm builds from the same class: ResNeXt, Wide ResNet, SE-ResNet."""

from __future__ import annotations

from timm.models.resnet import ResNet

from optimizer_svc.families.family import Family

# The convolutions in its shortcuts are what nncf's full bias correction fails on.
FAMILY = Family(name="ResNet", matches=lambda model, _architecture: isinstance(model, ResNet), full_bias=False)
