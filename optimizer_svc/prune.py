"""One step of structured pruning: whole channels leave until a share of the multiply-accumulates is left."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass

import torch
import torch_pruning
from torch import nn

from optimizer_svc.architecture import classifier_names
from optimizer_svc.widths import Widths, changed_widths, widths_of

ROUND_TO = 8  # channels come in eights: what the int8 kernels of every engine like
TRIALS = 6
CLOSE_ENOUGH = 0.03


class CannotPrune(Exception):
    """The model cannot be pruned; the text says why, for the report."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """A narrower copy of a model: `widths` of the layers that changed, `ratio` of the channels that was cut."""

    model: nn.Module
    widths: Widths
    ratio: float
    macs: int
    parameters: int


def count(model: nn.Module, input_px: int) -> tuple[int, int]:
    """(multiply-accumulates of one tile, parameters)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        macs, parameters = torch_pruning.utils.count_ops_and_params(model, torch.zeros(1, 3, input_px, input_px))
    return int(macs), int(parameters)


def prune(model: nn.Module, input_px: int, keep_macs: float) -> Pruned:
    """A copy of `model` (eval mode, left as it is) with about `keep_macs` (0 to 1) of its multiply-accumulates.

    Channels leave in the groups that must leave together (Fang et al. 2023, "DepGraph: towards any structural
    pruning"), in each group those of the smallest L2 norm, the same share in every layer, in multiples of eight; the
    classifier's
    outputs stay. The share is searched by bisection, because layers that keep a multiple of eight make the result a
    step function. The copy needs training before it is worth anything. Raises CannotPrune.
    """
    before, _ = count(model, input_px)
    low, high = 0.0, 0.95
    share = 1 - keep_macs**0.5
    best: Pruned | None = None
    for _ in range(TRIALS):
        trial = _cut(model, input_px, share)
        if best is None or abs(trial.macs / before - keep_macs) < abs(best.macs / before - keep_macs):
            best = trial
        if abs(trial.macs / before - keep_macs) <= CLOSE_ENOUGH:
            break
        low, high = (share, high) if trial.macs / before > keep_macs else (low, share)
        share = (low + high) / 2
    assert best is not None
    if not best.widths:
        raise CannotPrune("no layer has channels to spare in multiples of eight")
    return best


def _cut(model: nn.Module, input_px: int, share: float) -> Pruned:
    student = copy.deepcopy(model)
    names = dict(student.named_modules())
    example = torch.zeros(2, 3, input_px, input_px)
    outputs = model(example).shape
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pruner = torch_pruning.pruner.BasePruner(
                student,
                example,
                importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
                pruning_ratio=share,
                ignored_layers=[names[name] for name in classifier_names(model) if name in names],
                round_to=ROUND_TO,
                # The defaults are mutable and leak from one pruner into the next.
                num_heads={},
                out_channel_groups={},
                pruning_ratio_dict={},
                customized_pruners={},
            )
            pruner.step()
        student.eval()
        with torch.no_grad():
            given = student(example).shape
    except Exception as error:  # whatever torch-pruning or the narrower model trips over
        raise CannotPrune(f"torch-pruning cannot narrow this architecture ({type(error).__name__})") from None
    if given != outputs:
        raise CannotPrune("torch-pruning changed the outputs of this architecture")
    for parameter in student.parameters():
        parameter.grad = None
    macs, parameters = count(student, input_px)
    return Pruned(student, changed_widths(widths_of(model), widths_of(student)), share, macs, parameters)
