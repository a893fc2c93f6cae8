"""The selection of units that leaves a share of the multiply-accumulates."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from optimizer_svc.families.dimensions import CannotPrune, Prunable
from optimizer_svc.macs import countable, macs
from optimizer_svc.narrowing import keep
from optimizer_svc.selection import Scope, Scores, Selection, select

TRIALS = 9  # to a five-hundredth
CLOSE_ENOUGH = 0.005


@dataclass(frozen=True, slots=True)
class Found:
    """A selection, the share of units that it cuts on average, and the share of multiply-accumulates that is `left`."""

    selection: Selection
    ratio: float
    left: float


class MacSearch:
    """Looks for the selection that leaves a share of the multiply-accumulates."""

    def __init__(
        self,
        model: nn.Module,
        dimensions: Sequence[Prunable],
        scores: Mapping[str, Scores],
        scope: Scope,
        input_px: int,
    ) -> None:
        self._model, self._dimensions, self._scores, self._scope, self._px = model, dimensions, scores, scope, input_px
        self._countable = countable(model, input_px)
        self._before = macs(self._countable, input_px)
        self._found: list[Found] = []

    def closest(self, share_of_macs: float) -> Found:
        """By bisection over the share of units that stay.

        Dimensions come in steps, so one share for all may not come near: a step of a residual stream narrows every
        block, and all blocks step together. Then the streams keep theirs, and first the others share what is left,
        then only some of these take the last step.
        """
        widest = max(len(dimension.tensors) for dimension in self._dimensions)
        held = [2 * len(dimension.tensors) > widest for dimension in self._dimensions]
        few, _ = self._bisect(share_of_macs, 0.0, 1.0, lambda share: [share] * len(held))
        low, high = self._bisect(share_of_macs, few, 1.0, lambda share: [few if stays else share for stays in held])
        steps = len(held).bit_length()
        self._bisect(share_of_macs, 0, len(held), lambda place: _split(held, few, low, high, place), steps)
        return min(self._found, key=lambda one: abs(one.left - share_of_macs))

    def _bisect(
        self, share_of_macs: float, low: float, high: float, shares: Callable[[float], list[float]], steps: int = TRIALS
    ) -> tuple[float, float]:
        """The ends between which the work that is left passes `share_of_macs`; what was tried is noted."""
        for _ in range(steps):
            if self._found and abs(self._found[-1].left - share_of_macs) <= CLOSE_ENOUGH:
                break
            middle = (low + high) / 2 if self._found else share_of_macs**0.5
            self._found.append(self._try(shares(middle)))
            low, high = (low, middle) if self._found[-1].left > share_of_macs else (middle, high)
        return low, high

    def _try(self, wanted: list[float]) -> Found:
        shares = {dimension.name: share for dimension, share in zip(self._dimensions, wanted, strict=True)}
        selection = select(self._model, self._dimensions, self._scores, shares, self._scope)
        network = copy.deepcopy(self._countable)
        keep(network, selection)
        try:
            left = macs(network, self._px) / self._before
        except Exception as error:  # whatever the narrower model trips over
            raise cannot_run(error) from None
        return Found(selection, 1 - sum(shares.values()) / len(shares), left)


def _split(held: Sequence[bool], few: float, low: float, high: float, place: float) -> list[float]:
    return [few if stays else high if index < place else low for index, stays in enumerate(held)]


def cannot_run(error: Exception) -> CannotPrune:
    """What to say of a model that fails with fewer channels."""
    return CannotPrune(f"this architecture cannot run narrower ({type(error).__name__})")
