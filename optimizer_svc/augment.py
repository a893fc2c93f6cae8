"""Light augmentation of training tiles that leaves the Gram colour alone."""

from __future__ import annotations

import torch
from torch import Tensor


def augment(batch: Tensor, random: torch.Generator, *, light: float = 0.1, colour: float = 0.02) -> Tensor:
    """`batch` float [B, 3, S, S] in 0..1, each tile flipped and turned and with its light changed a little.

    All eight symmetries of the square are equal under a microscope. Brightness and contrast vary by `light`, each
    channel by only `colour`: violet against pink is the diagnosis, a hue jitter as for photographs would wash it out.
    """
    batch = symmetries(batch, torch.randint(8, (len(batch),), generator=random))
    shape = (len(batch), 1, 1, 1)
    contrast = 1 + light * _signed(shape, random)
    gain = (1 + light * _signed(shape, random)) * (1 + colour * _signed((len(batch), 3, 1, 1), random))
    mean = batch.mean(dim=(2, 3), keepdim=True)
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
