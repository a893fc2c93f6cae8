"""The dimensions of a network that pruning may narrow, with every tensor that they run through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

STEP = 8  # channels come in eights: what the int8 kernels of every engine like
WIDE, WIDE_STEP = 96, 16


class CannotPrune(Exception):
    """The model cannot be pruned; the text says why, for the report."""


def step_of(width: int) -> int:
    """The step of a dimension of linear layers: sixteen, eight where it is narrow.

    Their int8 kernels fill whole registers: deit_tiny with an embedding of 88 runs slower than with one of 96, and a
    fifth slower than with one of 80 (OpenVINO, one core with AVX512-VNNI).
    """
    return WIDE_STEP if width >= WIDE else STEP


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Where a dimension runs through one tensor: `positions` int64 [units, copies] along `axis`, by unit."""

    tensor: str
    axis: int
    positions: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Dimension:
    """Units that leave whole, in all `parts` at once: channels, or hidden features of an MLP.

    What is left is a multiple of `step`. Dimensions of one `kind` are built alike, so that their units compare.
    """

    name: str
    kind: str
    units: int
    parts: tuple[Part, ...]
    step: int = STEP

    @property
    def tensors(self) -> tuple[Part, ...]:
        """Everything that it runs through."""
        return self.parts


@dataclass(frozen=True, slots=True, eq=False)
class Heads:
    """The heads of one attention layer, and the width of each: `heads` x `width` units, head after head.

    Queries and keys must keep the same places within a head (`keys`), and values and what reads them (`values`);
    `per_head` are tensors with one entry for a head. Layers that read the number of heads from an attribute name it
    in `attribute`. A head keeps its width where not `narrow`. With `follows`, as many units stay as in the dimension
    of that name, because the layer adds them to it.
    """

    name: str
    kind: str
    heads: int
    width: int
    keys: tuple[Part, ...]
    values: tuple[Part, ...]
    per_head: tuple[Part, ...] = ()
    narrow: bool = True
    follows: str = ""
    attribute: str = "num_heads"

    @property
    def units(self) -> int:
        """All channels of all heads."""
        return self.heads * self.width

    @property
    def tensors(self) -> tuple[Part, ...]:
        """Everything that they run through."""
        return (*self.keys, *self.values, *self.per_head)


Prunable: TypeAlias = Dimension | Heads


class Wires:
    """Names the tensors of a model's layers, so that a family can say what a dimension runs through.

    Every method gives the parts of one layer; layers that a variant does without (None, nn.Identity) have none.
    `positions` [units, copies] is where each unit lies; without it unit i lies at i.
    """

    def __init__(self, model: nn.Module) -> None:
        self._names = {module: name for name, module in model.named_modules()}

    def name(self, module: nn.Module, attribute: str = "") -> str:
        """The full name of a module, or of its tensor `attribute`."""
        return ".".join(part for part in (self._names[module], attribute) if part)

    def along(
        self, module: nn.Module | None, attribute: str, axis: int = 0, positions: Tensor | None = None
    ) -> tuple[Part, ...]:
        """The tensor `attribute` of `module`, along `axis`."""
        tensor = getattr(module, attribute, None)
        if module is None or not isinstance(tensor, Tensor):
            return ()
        places = torch.arange(tensor.shape[axis]).unsqueeze(1) if positions is None else positions
        return (Part(self.name(module, attribute), axis % tensor.ndim, places),)

    def outputs(self, layer: nn.Module | None, positions: Tensor | None = None) -> tuple[Part, ...]:
        """What a linear or convolution layer gives."""
        return self.along(layer, "weight", 0, positions) + self.along(layer, "bias", 0, positions)

    def inputs(self, layer: nn.Module | None, positions: Tensor | None = None) -> tuple[Part, ...]:
        """What a linear or convolution layer reads."""
        return self.along(layer, "weight", 1, positions)

    def norm(self, layer: nn.Module | None, positions: Tensor | None = None) -> tuple[Part, ...]:
        """A normalisation of the channels."""
        names = ("weight", "bias", "running_mean", "running_var")
        return tuple(part for name in names for part in self.along(layer, name, 0, positions))


def spread(units: int, starts: Sequence[int]) -> Tensor:
    """Positions of units that lie in several runs, each from one of `starts`: int64 [units, runs]."""
    return torch.arange(units).unsqueeze(1) + torch.tensor(list(starts)).unsqueeze(0)
