"""Which units of a network's dimensions stay: their importance, how many of each, and which."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from optimizer_svc.families.dimensions import Dimension, Heads, Part, Prunable

Importance: TypeAlias = Literal["magnitude", "taylor"]
Scope: TypeAlias = Literal["uniform", "isomorphic"]

# With units compared across layers, no layer keeps less than this part of the share that all keep together.
FLOOR = 1 / 3
# What all heads together may cost in closeness to the wanted width: see `fit_heads`.
HEAD_COST = 0.6


@dataclass(slots=True)
class Selection:
    """Positions to keep, by (tensor, axis), and attributes to set, by (module, attribute)."""

    keep: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    attributes: dict[tuple[str, str], int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """The importance of every unit of a dimension; for heads, of queries and keys and of values apart."""

    units: Tensor
    keys: Tensor | None = None
    values: Tensor | None = None


def score(model: nn.Module, dimensions: Sequence[Prunable], importance: Importance) -> dict[str, Scores]:
    """How much each unit matters, by name of its dimension.

    "magnitude": the sum of its squared weights (Li et al. 2017, in groups as Fang et al. 2023). "taylor": the first
    order of what the loss would change, the sum of |weight x gradient| (Molchanov et al. 2019), from the gradients that
    lie on the parameters.
    """
    tensors = dict(model.named_parameters())
    known: dict[tuple[str, int], Tensor | None] = {}

    def elements(name: str) -> Tensor | None:
        tensor = tensors.get(name)
        if tensor is None:  # statistics of a norm
            return None
        if importance == "magnitude":
            return None if name.endswith("bias") else tensor.detach().square()
        return None if tensor.grad is None else (tensor.detach() * tensor.grad).abs()

    def along(part: Part) -> Tensor | None:
        key = (part.tensor, part.axis)
        if key not in known:
            values = elements(part.tensor)
            known[key] = (
                None
                if values is None
                else values.transpose(0, part.axis).flatten(1).sum(1)
                if values.ndim > 1
                else values
            )
        return known[key]

    def total(parts: Sequence[Part], units: int) -> Tensor:
        result = torch.zeros(units)
        for part in parts:
            vector = along(part)
            if vector is not None:
                result += vector[part.positions].sum(1).cpu()
        return result

    scores = {}
    for dimension in dimensions:
        if isinstance(dimension, Heads):
            keys, values = total(dimension.keys, dimension.units), total(dimension.values, dimension.units)
            scores[dimension.name] = Scores(keys + values, keys, values)
        else:
            scores[dimension.name] = Scores(total(dimension.parts, dimension.units))
    return scores


def select(
    model: nn.Module,
    dimensions: Sequence[Prunable],
    scores: Mapping[str, Scores],
    shares: Mapping[str, float],
    scope: Scope,
) -> Selection:
    """What stays when about `shares` (0 to 1, by name) of the units of the dimensions stay.

    "uniform": that share of each. "isomorphic": units of dimensions that are built alike are ranked together
    (Fang et al. 2024, "Isomorphic pruning"), so that a layer of much importance stays wide.
    """
    wanted = {dimension.name: shares[dimension.name] * dimension.units for dimension in dimensions}
    if scope == "isomorphic":
        wanted = _isomorphic(dimensions, scores, wanted)
    kept = _Kept(model)
    sizes: dict[str, int] = {}
    for dimension in dimensions:
        if isinstance(dimension, Dimension):
            count = rounded(wanted[dimension.name], dimension.units, dimension.step)
            sizes[dimension.name] = count
            kept.only(dimension.parts, _best(scores[dimension.name].units, count))
    attributes = {}
    for dimension in dimensions:
        if isinstance(dimension, Heads):
            given = sizes.get(dimension.follows)
            heads, width = (
                (given // dimension.width, dimension.width)
                if given
                else fit_heads(wanted[dimension.name], dimension.heads, dimension.width, dimension.narrow)
            )
            _keep_heads(kept, dimension, scores[dimension.name], heads, width)
            attributes[dimension.name, dimension.attribute] = heads
    return Selection(kept.positions(), attributes)


def rounded(count: float, units: int, step: int) -> int:
    """`count` as a multiple of `step`, at least one step and at most all `units`."""
    return min(units, max(step, step * round(count / step)))


def fit_heads(channels: float, heads: int, width: int, narrow: bool) -> tuple[int, int]:
    """(heads, width of each) with about `channels` together, in few heads.

    Each head costs a softmax over all pairs of tokens, which no multiply-accumulate counts: deit_tiny at half its
    channels runs 1.3 times as fast with one head of 64 as with three of 32. So a head more has to bring the total
    closer by HEAD_COST of it, shared out over the heads there were. Widths are multiples of 32, of 16 or of 8, the
    largest that is at most half of the whole width: what the int8 kernels fill their registers with.
    """
    step = next((step for step in (32, 16, 8) if 2 * step <= width), width)
    widths = [*range(step, width, step), width] if narrow else [width]
    choices = [(count, one) for count in range(1, heads + 1) for one in widths]

    def cost(choice: tuple[int, int]) -> tuple[float, int]:
        count, one = choice
        return abs(count * one - channels) / channels + HEAD_COST * count / heads, count

    return min(choices, key=cost)


def _isomorphic(
    dimensions: Sequence[Prunable], scores: Mapping[str, Scores], wanted: Mapping[str, float]
) -> dict[str, float]:
    """Deals the units that dimensions of a kind want out among them, by importance."""
    pools: dict[str, list[Prunable]] = defaultdict(list)
    for dimension in dimensions:
        pools[dimension.kind].append(dimension)
    dealt = {}
    for pool in pools.values():
        # By their mean, as layers differ in scale: what counts is how unequal the units of a layer are.
        units = [_by_mean(scores[dimension.name].units) for dimension in pool]
        total = min(round(sum(wanted[dimension.name] for dimension in pool)), sum(len(values) for values in units))
        threshold = torch.cat(units).topk(total).values[-1] if total else torch.tensor(torch.inf)
        for dimension, values in zip(pool, units, strict=True):
            dealt[dimension.name] = max(FLOOR * wanted[dimension.name], float((values >= threshold).sum()))
    return dealt


def _by_mean(values: Tensor) -> Tensor:
    return values / values.mean().clamp_min(1e-30)


def _best(values: Tensor, count: int) -> Tensor:
    """Which units stay, bool [units]."""
    keep = torch.zeros(len(values), dtype=torch.bool)
    keep[values.topk(count).indices] = True
    return keep


def _keep_heads(kept: _Kept, dimension: Heads, scores: Scores, heads: int, width: int) -> None:
    assert scores.keys is not None
    assert scores.values is not None
    chosen = _best(scores.units.view(dimension.heads, dimension.width).sum(1), heads)
    for parts, values in ((dimension.keys, scores.keys), (dimension.values, scores.values)):
        table = torch.zeros(dimension.heads, dimension.width, dtype=torch.bool)
        table.scatter_(1, values.view(dimension.heads, dimension.width).topk(width, dim=1).indices, True)
        kept.only(parts, (table & chosen.unsqueeze(1)).flatten())
    kept.only(dimension.per_head, chosen)


class _Kept:
    """What stays along each axis of each tensor."""

    def __init__(self, model: nn.Module) -> None:
        self._tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        self._stays: dict[tuple[str, int], Tensor] = {}

    def only(self, parts: Sequence[Part], units: Tensor) -> None:
        for part in parts:
            size = self._tensors[part.tensor].shape[part.axis]
            stays = self._stays.setdefault((part.tensor, part.axis), torch.ones(size, dtype=torch.bool))
            stays[part.positions[~units].flatten()] = False

    def positions(self) -> dict[tuple[str, int], Tensor]:
        return {key: stays.nonzero().flatten() for key, stays in self._stays.items() if not bool(stays.all())}


def shuffled(dimensions: Sequence[Prunable], model: nn.Module, permute: Callable[[int], Tensor]) -> Selection:
    """Every unit stays, in another order: a network that computes the same, if the dimensions are complete."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    keep: dict[tuple[str, int], Tensor] = {}

    def order(parts: Sequence[Part], units: Tensor) -> None:
        for part in parts:
            size = tensors[part.tensor].shape[part.axis]
            places = keep.setdefault((part.tensor, part.axis), torch.arange(size))
            places[part.positions] = part.positions[units]

    def within(heads: Tensor, width: int) -> Tensor:
        return torch.cat([int(head) * width + permute(width) for head in heads])

    orders: dict[str, Tensor] = {}
    for dimension in dimensions:
        if isinstance(dimension, Dimension):
            orders[dimension.name] = permute(dimension.units)
            order(dimension.parts, orders[dimension.name])
        else:
            heads = permute(dimension.heads)
            same = torch.arange(dimension.units).view(dimension.heads, -1)[heads].flatten()
            order(dimension.keys, within(heads, dimension.width) if dimension.narrow else same)
            order(dimension.values, within(heads, dimension.width))
            order(dimension.per_head, heads)
    return Selection(keep, {})
