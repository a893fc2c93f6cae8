"""What pruning has to know of a family of architectures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import nn

from optimizer_svc.families.dimensions import Prunable


def _nothing(_model: nn.Module) -> tuple[Prunable, ...]:
    return ()


@dataclass(frozen=True, slots=True)
class Family:
    """A family of timm architectures that are pruned and quantized alike.

    `matches` is asked with the model and the name of its architecture. `transformer`: most of its work is attention and
    linear layers, for which SmoothQuant and its like are made. `full_bias`: nncf's full bias correction works on it.
    `dimensions` gives those that the family knows itself
    and raises CannotPrune for a variant that it does not know; `traced`: the dependency graph finds (the other)
    channels. `keeps` names layers whose outputs stay as they are, beside the classifier. `attributes` are the widths
    that a module of a kind remembers, and `settle` brings such a module into line after its widths were changed.
    """

    name: str
    matches: Callable[[nn.Module, str], bool]
    transformer: bool = False
    full_bias: bool = True
    traced: bool = True
    dimensions: Callable[[nn.Module], tuple[Prunable, ...]] = _nothing
    keeps: tuple[str, ...] = ()
    attributes: tuple[tuple[type[nn.Module], tuple[str, ...]], ...] = ()
    settle: Mapping[type[nn.Module], Callable[[nn.Module], None]] = field(default_factory=dict)
