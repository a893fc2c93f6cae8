"""Training with rounding: what it computes inside and what it leaves behind."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from gramserve.runtime.engines import open_engine
from gramserve.store.manifest import EngineSettings
from optimizer_svc.architecture import InputSpec, build_model
from optimizer_svc.export import export
from optimizer_svc.quantization import RECIPES, logit_snr_db, quantize
from optimizer_svc.quantization.aware import fake_quantization


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return build_model("test_resnet", 5, 32).eval()


@pytest.fixture
def batch() -> torch.Tensor:
    return torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_inside_the_network_computes_with_rounding_and_afterwards_it_is_as_it_was(
    model: nn.Module, batch: torch.Tensor
) -> None:
    classes = [type(module) for module in model.modules()]
    names, plain = list(model.state_dict()), model(batch)
    with fake_quantization(model, [batch]):
        rounded = model(batch)
        assert list(model.state_dict()) == names
        assert {name for name, _ in model.named_parameters()} <= set(names)
    snr = logit_snr_db(plain.detach().numpy(), rounded.detach().numpy())
    assert 20 < snr < 60
    assert [type(module) for module in model.modules()] == classes
    assert torch.equal(model(batch), plain)
    assert not any("weight" in vars(m) or "_rounding" in vars(m) for m in model.modules())


def test_weights_are_rounded_to_254_steps_of_each_channel_and_inputs_to_256_steps() -> None:
    layer = nn.Conv2d(1, 2, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.27, 127.0]).view(2, 1, 1, 1) * 1.0)
    network = nn.Sequential(layer).eval()
    seen = torch.linspace(0, 255, 1021).view(1, 1, 1, -1)
    with fake_quantization(network, [seen]):
        given = network(seen)
    assert torch.allclose(given[0, 0] / 1.27, seen.round(), atol=1e-3)
    assert len(given[0, 0].unique()) == 256


def test_training_inside_changes_the_plain_weights_and_a_gradient_reaches_every_layer(
    model: nn.Module, batch: torch.Tensor
) -> None:
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    model.train()
    with fake_quantization(model, [batch]):
        for _ in range(2):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(batch), torch.arange(8) % 5).backward()
            optimizer.step()
    weights = [f"{n}.weight" for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    after = model.state_dict()
    assert all(not torch.equal(after[name], before[name]) for name in weights)
    assert all(m.training for m in model.modules())


def test_ranges_follow_training_and_stand_still_in_evaluation(model: nn.Module, batch: torch.Tensor) -> None:
    with fake_quantization(model, [batch]):
        first = model(batch)
        model(batch * 100)
        assert torch.equal(model(batch), first)
        model.train()
        model(batch * 100)
        model.eval()
        assert not torch.equal(model(batch), first)


def test_a_copy_made_inside_has_the_weights_and_is_plain_afterwards(model: nn.Module, batch: torch.Tensor) -> None:
    with fake_quantization(model, [batch]):
        made = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.mul_(1.1)
        assert not torch.equal(made(batch), model(batch))
    plain = build_model("test_resnet", 5, 32).eval()
    plain.load_state_dict(made.state_dict())
    assert torch.equal(made(batch), plain(batch))


def test_an_exception_inside_leaves_a_plain_network(model: nn.Module, batch: torch.Tensor) -> None:
    plain = model(batch)
    with pytest.raises(KeyError), fake_quantization(model):
        raise KeyError
    assert torch.equal(model(batch), plain)


def test_it_predicts_what_an_int8_file_computes(model: nn.Module) -> None:
    # Batch-norm statistics that scale channels differently: folding them must not change how weights round.
    torch.manual_seed(2)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.running_mean, 0, 0.1)
    tiles = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), np.uint8)
    fp32 = export(model, InputSpec(32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), tiles).model
    engine = EngineSettings(name="onnxruntime")
    int8 = open_engine(quantize(fp32, RECIPES["int8_channel_core"], tiles, transformer=False), engine).run(tiles)
    pixels = (torch.from_numpy(tiles).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    with torch.no_grad(), fake_quantization(model, [pixels], momentum=1.0):
        foreseen = model(pixels).numpy()
    plain = open_engine(fp32, engine).run(tiles)
    assert logit_snr_db(int8, foreseen) > logit_snr_db(int8, plain) - 3
