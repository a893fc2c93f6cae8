"""Networks cut down to a selection of their units, and the proof that units can be told apart."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from optimizer_svc.families.dimensions import Prunable
from optimizer_svc.selection import Selection, shuffled
from optimizer_svc.widths import fit, replace_tensors, widths_of

SAME = 1e-3  # largest difference of a logit, as a share of the largest, between a network and its shuffled copy


def keep(network: nn.Module, selection: Selection) -> None:
    """Cuts `network` in place down to `selection`."""
    before = widths_of(network)
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    cut: dict[str, Tensor] = {}
    for (name, axis), positions in selection.keep.items():
        cut[name] = cut.get(name, tensors[name]).detach().index_select(axis, positions)
    replace_tensors(network, cut)
    for (module, attribute), value in selection.attributes.items():
        setattr(network.get_submodule(module), attribute, value)
    fit(network, before)


def proved(model: nn.Module, dimensions: tuple[Prunable, ...], input_px: int) -> tuple[Prunable, ...]:
    """The dimensions along which `model` computes the same when its units change their order.

    Where they do not, a tensor that runs along was overlooked, and to cut there would mix up channels.
    """
    generator = torch.Generator().manual_seed(0)
    tiles = torch.randn(2, 3, input_px, input_px, generator=generator)

    def permute(size: int) -> Tensor:
        return torch.randperm(size, generator=generator)

    def logits(network: nn.Module) -> Tensor:
        with torch.no_grad():
            result: Tensor = network(tiles)
        return result

    wanted = logits(model)

    def same(some: Sequence[Prunable]) -> bool:
        network = copy.deepcopy(model)
        keep(network, shuffled(some, model, permute))
        try:
            given = logits(network)
        except Exception:  # the model asks for an order
            return False
        return bool((given - wanted).abs().max() <= SAME * wanted.abs().max())

    if same(dimensions):
        return dimensions
    return tuple(dimension for dimension in dimensions if same((dimension,)))
