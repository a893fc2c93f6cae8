"""Training batches: tiles of a set in a shuffled order, each as one view of it looks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from optimizer_svc.architecture import InputSpec
from optimizer_svc.augment import augment, view
from optimizer_svc.tiles import TileSet


@dataclass(frozen=True, slots=True)
class Batch:
    """Normalised `inputs` [B, 3, S, S] and `targets` int64 [B] of the tiles `rows` int64 [B], as `view` shows them."""

    inputs: Tensor
    targets: Tensor
    rows: Tensor
    view: int


def batches(
    tiles: TileSet, spec: InputSpec, size: int, order: torch.Generator, *, seed: int, number: int, device: torch.device
) -> Iterator[Batch]:
    """All tiles once, shuffled by `order`, as view `number` of `seed` shows them; `size` tiles at a time or a few less.

    Batches are of nearly equal size, because a last one of a single tile would break batch norm.
    """
    pixels, targets = torch.from_numpy(tiles.tiles), torch.from_numpy(tiles.targets)
    seen = view(len(tiles), seed, number)
    permuted = torch.randperm(len(tiles), generator=order)
    for rows in torch.tensor_split(permuted, math.ceil(len(tiles) / size)):
        inputs = normalise(augment(unit(pixels[rows]), seen, rows), spec)
        yield Batch(inputs.to(device), targets[rows].to(device), rows, number)


def unit(pixels: Tensor) -> Tensor:
    """uint8 [B, S, S, 3] -> float [B, 3, S, S] in 0..1; the strides stay channels-last, which is fastest on CPUs."""
    return pixels.permute(0, 3, 1, 2).float().mul_(1 / 255)


def normalise(batch: Tensor, spec: InputSpec) -> Tensor:
    """Float [B, 3, S, S] in 0..1 as the model wants to see it."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
    return (batch - mean) / std
