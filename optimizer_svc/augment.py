"""Light augmentation of training tiles that leaves the Gram colour alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class View:
    """How each of N tiles is seen: `symmetry` int64 [N] in 0..7, `contrast` float [N], `gain` float [N, 3]."""

    symmetry: Tensor
    contrast: Tensor
    gain: Tensor


def view(count: int, seed: int, number: int, *, light: float = 0.1, colour: float = 0.02) -> View:
    """The view `number` of `count` tiles: the same tile, seed and number always look the same.

    All eight symmetries of the square are equal under a microscope. Brightness and contrast vary by `light`, each
    channel by only `colour`: violet against pink is the diagnosis, a hue jitter as for photographs would wash it out.
    """
    random = torch.Generator().manual_seed(seed * 1_000_003 + number)
    gain = (1 + light * _signed((count, 1), random)) * (1 + colour * _signed((count, 3), random))
    return View(torch.randint(8, (count,), generator=random), 1 + light * _signed((count,), random), gain)


def augment(batch: Tensor, seen: View, rows: Tensor) -> Tensor:
    """`batch` float [B, 3, S, S] in 0..1, the tiles `rows` int64 [B] of a set, as they look in `seen`."""
    batch = symmetries(batch, seen.symmetry[rows])
    mean = batch.mean(dim=(2, 3), keepdim=True)
    contrast, gain = seen.contrast[rows].view(-1, 1, 1, 1), seen.gain[rows].view(-1, 3, 1, 1)
    return ((batch - mean) * contrast + mean).mul_(gain).clamp_(0, 1)


def symmetries(batch: Tensor, which: Tensor) -> Tensor:
    """Each tile of [B, 3, S, S] under the symmetry 0..7 that `which` int64 [B] names: turns, mirrored from 4 on."""
    out = torch.empty_like(batch)
    for k in range(8):
        chosen = which == k
        if bool(chosen.any()):
            turned = torch.rot90(batch[chosen], k % 4, dims=(2, 3))
            out[chosen] = turned.flip(3) if k >= 4 else turned
    return out


def _signed(shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=random) * 2 - 1
