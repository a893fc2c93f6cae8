"""The teacher of a distillation, which answers a tile's view once however often it is asked."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from optimizer_svc.architecture import InputSpec
from optimizer_svc.batches import Batch


class Teacher:
    """A network whose answers others learn; for the tiles of one set.

    `views` is how many different views of a tile there are: an epoch beyond that repeats an earlier one, whose answers
    are known. Narrow students train several times faster so, because their teacher was most of the work, and still see
    the very tile that the teacher saw, augmentation included (Beyer et al. 2022, "Knowledge distillation: a good
    teacher is patient and consistent"). `seed` decides what the views look like.
    """

    def __init__(self, model: nn.Module, tiles: int, *, views: int = 16, seed: int = 0) -> None:
        self.views = views
        self.seed = seed
        self._model = copy.deepcopy(model).eval().requires_grad_(False)
        self._tiles = tiles
        self._known: dict[int, Tensor] = {}

    def answers(self, batch: Batch) -> Tensor:
        """Logits [B, C] of the tiles of `batch`, on its device."""
        known = self._known.get(batch.view)
        if known is None or bool(known[batch.rows].isnan().any()):
            self._model.to(batch.inputs.device)
            with torch.no_grad():
                fresh = self._model(batch.inputs).float().cpu()
            if known is None:
                known = self._known[batch.view] = torch.full((self._tiles, fresh.shape[1]), torch.nan)
            known[batch.rows] = fresh
        return known[batch.rows].to(batch.inputs.device)


def adapted(model: nn.Module, own: InputSpec, given: InputSpec) -> nn.Module:
    """`model`, which wants to see tiles as `own` says, for a student whose tiles come as `given` says."""
    return model if own == given else _Adapted(model, own, given)


class _Adapted(nn.Module):
    """Normalises anew, and resizes where the sizes differ."""

    def __init__(self, model: nn.Module, own: InputSpec, given: InputSpec) -> None:
        super().__init__()
        self.model = model
        self._px = own.px if own.px != given.px else None
        own_mean, own_std, mean, std = (
            torch.tensor(values).view(1, 3, 1, 1) for values in (own.mean, own.std, given.mean, given.std)
        )
        self.register_buffer("scale", std / own_std)
        self.register_buffer("shift", (mean - own_mean) / own_std)

    def forward(self, inputs: Tensor) -> Tensor:
        """See the class."""
        pixels = inputs * self.get_buffer("scale") + self.get_buffer("shift")
        if self._px is not None:
            size = (self._px, self._px)
            pixels = functional.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)
        logits: Tensor = self.model(pixels)
        return logits
