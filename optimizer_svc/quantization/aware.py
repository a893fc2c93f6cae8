"""Quantization-aware training: a network that computes with rounded weights and inputs for as long as it learns."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn

LAYERS = (nn.Conv2d, nn.Linear)
# How much of a range the newest batch is (Jacob et al. 2018 average over thousands of steps; distillation has fewer).
MOMENTUM = 0.05


class _Switch:
    """Whether layers round; one for a context, shared by the copies that are made of the model inside it."""

    def __init__(self) -> None:
        self.on = True

    def __deepcopy__(self, _memo: dict[int, Any]) -> Self:
        return self


@dataclass
class _Rounding:
    """What a layer needs to round its input: the range of what it has seen."""

    switch: _Switch
    momentum: float
    low: Tensor | None = field(default=None)
    high: Tensor | None = field(default=None)

    def observe(self, values: Tensor) -> None:
        low, high = values.detach().aminmax()
        low, high = low.clamp(max=0), high.clamp(min=0)
        if self.low is None or self.high is None:
            self.low, self.high = low.clone(), high.clone()
        else:
            self.low, self.high = self.low.lerp(low, self.momentum), self.high.lerp(high, self.momentum)

    def rounded(self, values: Tensor) -> Tensor:
        """To the nearest of 256 steps; the gradient goes straight through inside the range and is zero outside."""
        if self.low is None or self.high is None:
            return values
        step = ((self.high - self.low) / 255).clamp(min=1e-8)
        zero = (-self.low / step).round().clamp(0, 255).to(torch.int32)
        return torch.fake_quantize_per_tensor_affine(values, step, zero, 0, 255)


class _Rounded:
    """Put before a layer's own class, so that the layer's own forward runs on rounded numbers."""

    def forward(self, values: Tensor) -> Tensor:
        layer: Any = self
        plain = super().forward  # type: ignore[misc]
        rounding: _Rounding = layer._rounding
        if not rounding.switch.on:
            result: Tensor = plain(values)
            return result
        if layer.training:
            rounding.observe(values)
        # An attribute of the instance hides the parameter of that name, which goes on being the one that learns.
        layer.__dict__["weight"] = _rounded_weights(layer._parameters["weight"])
        try:
            result = plain(rounding.rounded(values))
        finally:
            del layer.__dict__["weight"]
        return result


@contextmanager
def fake_quantization(
    model: nn.Module, batches: Iterable[Tensor] = (), *, momentum: float = MOMENTUM
) -> Iterator[None]:
    """Inside, every Conv2d and Linear of `model` computes with int8 weights and uint8 inputs, as fp32 numbers.

    Weights are symmetric with one scale for each output channel. That makes batch normalisation no concern: folding
    multiplies whole channels, their scales with them, so the folded weights round to the same codes. Inputs are
    asymmetric with one range for each layer, a running mean over the batches of training (Jacob et al. 2018); in eval
    mode ranges stay as they are. `batches` (normalised, [N, 3, S, S]) go through the model first, to begin with ranges
    that fit. Gradients pass rounding as if it were not there (Bengio et al. 2013).

    Parameters, buffers and their names in `state_dict` stay what they are; afterwards, also after an exception, the
    model is plain again and holds the trained weights. A copy made inside computes plainly from then on, too.
    """
    switch = _Switch()
    layers: list[Any] = [layer for layer in model.modules() if isinstance(layer, LAYERS)]
    for layer in layers:
        layer.__dict__["_rounding"] = _Rounding(switch, momentum)
        plain: Any = type(layer)
        layer.__class__ = _rounded_class(plain)
    try:
        _see(model, layers, batches)
        yield
    finally:
        switch.on = False
        for layer in layers:
            layer.__class__ = type(layer).__mro__[2]
            del layer.__dict__["_rounding"]


def _see(model: nn.Module, layers: list[nn.Module], batches: Iterable[Tensor]) -> None:
    """Ranges of the layers' inputs over the batches, with weights rounded and everything else as in eval mode."""
    was_training = {module: module.training for module in model.modules()}
    model.eval()
    for layer in layers:
        layer.training = True
    try:
        with torch.no_grad():
            for batch in batches:
                model(batch)
    finally:
        for module, training in was_training.items():
            module.training = training


@functools.cache
def _rounded_class(plain: type[nn.Module]) -> type[nn.Module]:
    return type(f"Rounded{plain.__name__}", (_Rounded, plain), {})


def _rounded_weights(weights: Tensor) -> Tensor:
    largest = weights.detach().abs().flatten(1).amax(dim=1)
    steps = (largest / 127).clamp(min=1e-12)
    zeros = torch.zeros(len(steps), dtype=torch.int32, device=weights.device)
    return torch.fake_quantize_per_channel_affine(weights, steps, zeros, 0, -127, 127)
