from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from optimizer_svc.architecture import build_model
from optimizer_svc.families import GENERIC, CannotPrune, family_of
from optimizer_svc.families.dimensions import Dimension, Heads
from optimizer_svc.narrowing import proved
from optimizer_svc.prune import Pruned, count, prune
from optimizer_svc.widths import apply_widths
from tests.optimizer.small_families import FAMILIES

CLASSES = 5
EVERY = pytest.mark.parametrize(("architecture", "px"), FAMILIES.values(), ids=FAMILIES.keys())


def network(architecture: str, px: int) -> nn.Module:
    """Every number of it matters: fresh norms, biases and layer scales would hide a channel that was mixed up."""
    torch.manual_seed(0)
    model = build_model(architecture, CLASSES, px).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim <= 1:
                parameter.add_(torch.rand_like(parameter) * 0.4)
        for name, buffer in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.add_(torch.rand_like(buffer) * 0.4)
    return model


def backward(model: nn.Module) -> None:
    torch.manual_seed(1)
    px = 64 if not hasattr(model, "patch_embed") else model.patch_embed.img_size[0]
    loss = nn.functional.cross_entropy(model(torch.randn(4, 3, px, px)), torch.tensor([0, 1, 2, 3]))
    loss.backward()


def logits(model: nn.Module, px: int) -> torch.Tensor:
    torch.manual_seed(2)
    with torch.no_grad():
        result: torch.Tensor = model(torch.randn(3, 3, px, px))
    return result


def assert_rebuilds(pruned: Pruned, architecture: str, px: int) -> None:
    """From JSON and safetensors alone, as the workspace keeps them."""
    widths = json.loads(json.dumps(pruned.widths))
    state = load(save({name: tensor.contiguous() for name, tensor in pruned.model.state_dict().items()}))
    rebuilt = build_model(architecture, CLASSES, px)
    apply_widths(rebuilt, widths, {name: tensor.shape for name, tensor in state.items()})
    rebuilt.load_state_dict(state)
    assert torch.equal(logits(rebuilt.eval(), px), logits(pruned.model, px))


@EVERY
def test_every_family_is_pruned_by_taylor_twice_and_rebuilt_and_trained(architecture: str, px: int) -> None:
    model = network(architecture, px)
    before, macs = logits(model, px), count(model, px)[0]
    first = prune(model, architecture, px, 0.6, importance="taylor", backward=backward)
    assert first.macs / macs == pytest.approx(0.6, abs=0.1)
    assert_rebuilds(first, architecture, px)
    second = prune(first.model, architecture, px, 0.6, importance="taylor", backward=backward)
    assert second.macs / first.macs == pytest.approx(0.6, abs=0.2)
    assert second.parameters < first.parameters
    assert_rebuilds(second, architecture, px)
    assert logits(second.model, px).shape == before.shape
    assert torch.equal(logits(model, px), before)  # the model itself stays as it is
    second.model.train()
    backward(second.model)
    assert all(parameter.grad is not None for name, parameter in second.model.named_parameters() if "dist" not in name)


@EVERY
def test_every_family_is_pruned_by_magnitude_across_its_layers(architecture: str, px: int) -> None:
    model = network(architecture, px)
    pruned = prune(model, architecture, px, 0.5, importance="magnitude", scope="isomorphic")
    assert pruned.macs / count(model, px)[0] == pytest.approx(0.5, abs=0.12)
    assert_rebuilds(pruned, architecture, px)


@pytest.mark.parametrize(
    ("architecture", "px", "name", "transformer"),
    [
        ("test_vit", 64, "DeiT and ViT", True),
        ("small_beit", 32, "BEiT", True),
        ("small_swin", 64, "Swin", True),
        ("small_mobilevit", 64, "MobileViT", True),
        ("small_poolformer", 64, "PoolFormer", False),
        ("test_convnext", 64, "ConvNeXt", False),
        ("test_resnet", 32, "ResNet", False),
        ("mobilenetv2_035", 32, "MobileNetV2 and V3", False),
        ("mobilenetv3_small_050", 32, "MobileNetV2 and V3", False),
        ("test_efficientnet", 32, "EfficientNet", False),
    ],
)
def test_a_model_belongs_to_its_family(architecture: str, px: int, name: str, transformer: bool) -> None:
    family = family_of(build_model(architecture, CLASSES, px), architecture)
    assert (family.name, family.transformer) == (name, transformer)


def test_a_model_of_no_family_is_pruned_as_far_as_its_graph_is_understood() -> None:
    model = network("test_byobnet", 64)
    assert family_of(model, "test_byobnet") is GENERIC
    pruned = prune(model, "test_byobnet", 64, 0.5)
    assert pruned.macs < 0.6 * count(model, 64)[0]
    assert_rebuilds(pruned, "test_byobnet", 64)


def test_a_vit_with_a_pooling_of_its_own_says_that_it_cannot_be_pruned() -> None:
    model = build_model("test_vit3", CLASSES, 160).eval()
    with pytest.raises(CannotPrune, match="pooling"):
        prune(model, "test_vit3", 160, 0.5)


def test_heads_and_head_width_and_mlp_width_of_a_transformer_are_dimensions() -> None:
    model = network("test_vit", 64)
    found = family_of(model, "test_vit").dimensions(model)
    assert [d.name for d in found if isinstance(d, Heads)] == [f"blocks.{i}.attn" for i in range(len(model.blocks))]
    assert {d.name for d in found if isinstance(d, Dimension)} >= {"embedding", "blocks.0.mlp"}
    attention = prune(model, "test_vit", 64, 0.2).model.blocks[0].attn
    assert attention.num_heads * attention.head_dim == attention.attn_dim < model.blocks[0].attn.attn_dim
    assert attention.head_dim % 8 == 0
    assert attention.scale == pytest.approx(attention.head_dim**-0.5)


def test_beit_loses_whole_heads_with_the_channels_of_its_stream() -> None:
    pruned = prune(network("small_beit", 32), "small_beit", 32, 0.3).model
    attention = pruned.blocks[0].attn
    assert attention.num_heads < 4
    assert attention.num_heads * 16 == attention.proj.out_features == attention.q_bias.shape[0]
    assert attention.relative_position_bias_table.shape[1] == attention.num_heads


@pytest.mark.parametrize(
    "family",
    ["DeiT and ViT", "DeiT, distilled", "BEiT", "Swin", "Swin v2", "MobileViT", "MobileViT v2"],
)
def test_a_dimension_that_overlooks_a_tensor_is_found_out_before_anything_is_cut(family: str) -> None:
    architecture, px = FAMILIES[family]
    model = network(architecture, px)
    known = family_of(model, architecture).dimensions(model)
    whole = next(d for d in known if isinstance(d, Dimension))
    others = tuple(d for d in known if d is not whole)
    half = replace(whole, parts=tuple(part for part in whole.parts if part.axis == 0))
    assert proved(model, known, px) == known
    assert proved(model, (half, *others), px) == others


def test_steps_of_a_pruned_network_count_from_the_timm_architecture() -> None:
    model = network("test_resnet", 32)
    first = prune(model, "test_resnet", 32, 0.6)
    second = prune(first.model, "test_resnet", 32, 0.6)
    assert set(first.widths) <= set(second.widths)  # what the first step changed is told again
