"""One small variant of every family of architectures, registered with timm for the tests."""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._efficientnet_builder import decode_arch_def
from timm.models.beit import Beit
from timm.models.byobnet import ByobNet, ByoModelCfg
from timm.models.deit import VisionTransformerDistilled
from timm.models.efficientnet import EfficientNet
from timm.models.metaformer import GroupNorm1, MetaFormer
from timm.models.mobilenetv3 import MobileNetV3
from timm.models.mobilevit import _inverted_residual_block, _mobilevit_block, _mobilevitv2_block
from timm.models.resnet import Bottleneck, ResNet
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from torch import nn

_RGB = {"num_classes": 1000, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}

default_cfgs = generate_default_cfgs(
    {
        "small_deit_distilled": {**_RGB, "input_size": (3, 32, 32), "fixed_input_size": True}
        | {"first_conv": "patch_embed.proj", "classifier": ("head", "head_dist")},
        "small_beit": {**_RGB, "input_size": (3, 32, 32), "fixed_input_size": True, "classifier": "head"},
        "small_swin": {**_RGB, "input_size": (3, 64, 64), "fixed_input_size": True, "classifier": "head.fc"},
        "small_swinv2": {**_RGB, "input_size": (3, 64, 64), "fixed_input_size": True, "classifier": "head.fc"},
        "small_mobilevit": {**_RGB, "input_size": (3, 64, 64), "classifier": "head.fc"},
        "small_mobilevitv2": {**_RGB, "input_size": (3, 64, 64), "classifier": "head.fc"},
        "small_poolformer": {**_RGB, "input_size": (3, 64, 64), "classifier": "head.fc"},
        "mobilenetv2_small": {**_RGB, "input_size": (3, 64, 64), "classifier": "classifier"},
        "mobilenetv3_smaller": {**_RGB, "input_size": (3, 64, 64), "classifier": "classifier"},
        "small_bottleneck": {**_RGB, "input_size": (3, 64, 64), "classifier": "fc"},
    }
)


@register_model
def small_deit_distilled(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 2, "init_values": 0.1}
    return _build(VisionTransformerDistilled, "small_deit_distilled", pretrained, {**options, **kwargs})


@register_model
def small_beit(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 4, "init_values": 0.1}
    positions = {"use_abs_pos_emb": False, "use_rel_pos_bias": True}
    return _build(Beit, "small_beit", pretrained, {**options, **positions, **kwargs})


@register_model
def small_swin(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    options = {"img_size": 64, "patch_size": 4, "window_size": 4, "embed_dim": 32, "depths": (2, 1)}
    return _build(SwinTransformer, "small_swin", pretrained, {**options, "num_heads": (2, 4), **kwargs})


@register_model
def small_swinv2(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    options = {"img_size": 64, "patch_size": 4, "window_size": 4, "embed_dim": 32, "depths": (2, 1)}
    return _build(SwinTransformerV2, "small_swinv2", pretrained, {**options, "num_heads": (4, 8), **kwargs})


@register_model
def small_mobilevit(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    blocks = (
        _inverted_residual_block(d=2, c=24, s=2, br=2.0),
        _mobilevit_block(d=1, c=32, s=2, transformer_dim=64, transformer_depth=1, patch_size=2, br=2.0),
    )
    return _build_byob("small_mobilevit", blocks, pretrained, kwargs)


@register_model
def small_mobilevitv2(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    blocks = (
        _inverted_residual_block(d=2, c=24, s=2, br=2.0),
        _mobilevitv2_block(d=1, c=64, s=2, transformer_depth=1),
    )
    return _build_byob("small_mobilevitv2", blocks, pretrained, kwargs)


@register_model
def small_poolformer(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    options: dict[str, Any] = {"depths": (1, 1, 2, 1), "dims": (32, 48, 64, 96), "downsample_norm": None}
    options |= {"mlp_act": nn.GELU, "mlp_bias": True, "norm_layers": GroupNorm1, "use_mlp_head": False}
    options |= {"layer_scale_init_values": 0.1, "res_scale_init_values": None}
    return _build(MetaFormer, "small_poolformer", pretrained, {**options, **kwargs})


@register_model
def small_bottleneck(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    options = {"block": Bottleneck, "layers": (1, 1, 1, 1), "cardinality": 2, "base_width": 32, "stem_width": 32}
    return _build(ResNet, "small_bottleneck", pretrained, {**options, "channels": (16, 32, 48, 64), **kwargs})


@register_model
def mobilenetv2_small(pretrained: bool = False, **kwargs: Any) -> nn.Module:  # its name tells it from an EfficientNet
    blocks = [["ds_r1_k3_s1_c16"], ["ir_r1_k3_s2_e4_c24"], ["ir_r2_k3_s2_e4_c32"]]
    options = {"block_args": decode_arch_def(blocks), "num_features": 96, "stem_size": 16, "act_layer": nn.ReLU6}
    return _build(EfficientNet, "mobilenetv2_small", pretrained, {**options, **kwargs})


@register_model
def mobilenetv3_smaller(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    blocks = [["ds_r1_k3_s2_e1_c16_se0.25_nre"], ["ir_r1_k5_s2_e4_c24_se0.25"], ["ir_r1_k5_s1_e4_c24_se0.25"]]
    options = {"block_args": decode_arch_def([*blocks, ["cn_r1_k1_s1_c96"]]), "num_features": 128}
    options |= {"stem_size": 16, "act_layer": nn.Hardswish}
    return _build(MobileNetV3, "mobilenetv3_smaller", pretrained, {**options, **kwargs})


def _build(kind: type[nn.Module], name: str, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    model: nn.Module = build_model_with_cfg(kind, name, pretrained, **options)
    return model


def _build_byob(name: str, blocks: Any, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    config = ByoModelCfg(
        blocks=blocks, stem_chs=16, stem_type="3x3", stem_pool="", downsample="", act_layer="silu", num_features=64
    )
    model: nn.Module = build_model_with_cfg(
        ByobNet, name, pretrained, model_cfg=config, feature_cfg={"flatten_sequential": True}, **options
    )
    return model


# Family -> (a small architecture of it, its input in px).
FAMILIES: dict[str, tuple[str, int]] = {
    "DeiT and ViT": ("test_vit", 64),
    "DeiT, distilled": ("small_deit_distilled", 32),
    "BEiT": ("small_beit", 32),
    "Swin": ("small_swin", 64),
    "Swin v2": ("small_swinv2", 64),
    "MobileViT": ("small_mobilevit", 64),
    "MobileViT v2": ("small_mobilevitv2", 64),
    "PoolFormer": ("small_poolformer", 64),
    "ConvNeXt": ("test_convnext", 64),
    "ResNet": ("test_resnet", 32),
    "ResNet, grouped": ("small_bottleneck", 64),
    "MobileNetV2": ("mobilenetv2_small", 64),
    "MobileNetV3": ("mobilenetv3_smaller", 64),
    "EfficientNet": ("test_efficientnet", 64),
}
