from __future__ import annotations

import pytest
import torch

from gramserve.errors import InvalidInput, Reason
from optimizer_svc.architecture import build_model
from optimizer_svc.prune import ROUND_TO, CannotPrune, count, prune
from optimizer_svc.selection import fit_heads
from optimizer_svc.widths import apply_widths, changed_widths, widths_of

PX = 32


def network(architecture: str = "test_resnet") -> torch.nn.Module:
    torch.manual_seed(0)
    return build_model(architecture, 5, PX).eval()


def test_pruning_keeps_about_the_asked_share_of_the_work_in_multiples_of_eight() -> None:
    model = network()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    macs, parameters = count(model, PX)
    pruned = prune(model, "test_resnet", PX, 0.5)
    assert pruned.macs / macs == pytest.approx(0.5, abs=0.08)
    assert pruned.parameters < parameters
    assert all(w["out_channels"] % ROUND_TO == 0 for w in pruned.widths.values() if "out_channels" in w)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_the_classifier_keeps_its_outputs() -> None:
    pruned = prune(network(), "test_resnet", PX, 0.5)
    with torch.no_grad():
        assert pruned.model(torch.zeros(3, 3, PX, PX)).shape == (3, 5)


def test_one_pruning_leaves_nothing_behind_for_the_next() -> None:
    one, two = (prune(network(), "test_resnet", PX, 0.5) for _ in range(2))
    assert one.widths == two.widths
    assert all(torch.equal(t, two.model.state_dict()[name]) for name, t in one.model.state_dict().items())


@pytest.mark.parametrize("architecture", ["test_resnet", "test_efficientnet", "mobilenetv3_small_050"])
def test_widths_and_weights_rebuild_the_pruned_network_exactly(architecture: str) -> None:
    pruned = prune(network(architecture), architecture, PX, 0.6)
    state = pruned.model.state_dict()
    rebuilt = network(architecture)
    apply_widths(rebuilt, pruned.widths, {name: t.shape for name, t in state.items()})
    rebuilt.load_state_dict(state)
    inputs = torch.rand(2, 3, PX, PX)
    with torch.no_grad():
        assert torch.equal(rebuilt.eval()(inputs), pruned.model(inputs))
    assert changed_widths(widths_of(rebuilt), widths_of(pruned.model)) == {}


def test_widths_of_another_model_are_refused() -> None:
    with pytest.raises(InvalidInput) as caught:
        apply_widths(network(), {"nowhere": {"out_channels": 8}}, {})
    assert caught.value.reason == Reason.CHECKPOINT_MISMATCH


def test_a_model_that_cannot_be_pruned_is_said_to_be_and_stays_as_it_is() -> None:
    torch.manual_seed(0)
    model = build_model("test_vit3", 5, 160).eval()
    inputs = torch.rand(2, 3, 160, 160)
    with torch.no_grad():
        before = model(inputs)
    with pytest.raises(CannotPrune, match="pooling"):
        prune(model, "test_vit3", 160, 0.5)
    with torch.no_grad():
        assert torch.equal(model(inputs), before)


def test_taylor_keeps_what_the_loss_needs() -> None:
    """Channels that nothing downstream reads have no gradient, and leave first whatever their size."""
    model = network()
    idle = torch.arange(0, model.layer4[0].conv1.out_channels, 2)
    with torch.no_grad():
        model.layer4[0].conv1.weight[idle] *= 100
        model.layer4[0].conv2.weight[:, idle] = 0
        model.layer4[0].bn1.bias.fill_(1)  # all others are alive
        model.layer4[0].bn2.weight.fill_(1)  # timm starts it at zero

    def backward(copy: torch.nn.Module) -> None:
        torch.manual_seed(0)
        copy(torch.randn(4, 3, PX, PX)).square().sum().backward()

    wanted = model.layer4[0].conv1.weight[1::2]
    kept = prune(model, "test_resnet", PX, 0.25, importance="taylor", backward=backward).model.layer4[0].conv1.weight
    assert len(kept) <= len(wanted)
    assert float(kept.detach().abs().max()) <= float(wanted.detach().abs().max())


def test_taylor_without_gradients_is_refused() -> None:
    with pytest.raises(ValueError, match="backward"):
        prune(network(), "test_resnet", PX, 0.5, importance="taylor")


def test_layers_of_much_importance_stay_wider_when_units_compete() -> None:
    model = network()
    with torch.no_grad():  # one block's channels are all alike, another's mostly idle
        model.layer3[0].conv1.weight.copy_(torch.ones_like(model.layer3[0].conv1.weight))
    uniform, competing = (
        prune(model, "test_resnet", PX, 0.5, scope=scope).model.layer3[0].conv1.out_channels
        for scope in ("uniform", "isomorphic")
    )
    assert competing >= uniform


def test_attention_products_are_counted() -> None:
    model = build_model("test_vit", 5, 64)
    counted, _ = count(model.eval(), 64)
    for block in model.blocks:
        block.attn.fused_attn = False
    tokens, width = model.pos_embed.shape[1], model.embed_dim
    assert counted == count(model, 64)[0]
    assert counted > len(model.blocks) * (2 * tokens * tokens * width + 12 * tokens * width * width) * 0.9


@pytest.mark.parametrize(
    ("channels", "heads", "width", "expected"),
    [
        (192, 3, 64, (3, 64)),
        (96, 3, 64, (1, 64)),
        (192, 6, 64, (3, 64)),
        (128, 3, 64, (2, 64)),
        (384, 12, 64, (6, 64)),
        (40, 4, 20, (2, 20)),
    ],
)
def test_heads_are_few_and_as_wide_as_the_kernels_like(
    channels: int, heads: int, width: int, expected: tuple[int, int]
) -> None:
    assert fit_heads(channels, heads, width, narrow=True) == expected


def test_a_model_without_channels_to_spare_is_said_to_be() -> None:
    layers = [torch.nn.Conv2d(3, 8, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 5)]
    model = torch.nn.Sequential(*layers).eval()
    model.pretrained_cfg = {"classifier": "3"}
    with pytest.raises(CannotPrune, match="no layer"):
        prune(model, "test_resnet", PX, 0.5)
