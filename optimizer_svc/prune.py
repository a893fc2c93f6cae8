"""One step of structured pruning: whole channels and heads leave until a share of the multiply-accumulates is left."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from optimizer_svc.architecture import build_model, classifier_names
from optimizer_svc.families import CannotPrune, Family, family_of
from optimizer_svc.families.dimensions import STEP, Prunable
from optimizer_svc.families.graph import graph_dimensions
from optimizer_svc.mac_search import Found, MacSearch, cannot_run
from optimizer_svc.macs import count
from optimizer_svc.narrowing import keep, proved
from optimizer_svc.selection import Importance, Scope, score
from optimizer_svc.widths import Widths, changed_widths, widths_of

__all__ = ["ROUND_TO", "CannotPrune", "Importance", "Pruned", "Scope", "count", "prune"]

ROUND_TO = STEP
NOTHING_TO_SPARE = f"no layer has channels to spare in multiples of {ROUND_TO}"


@dataclass(frozen=True, slots=True)
class Pruned:
    """A narrower copy of a model: `widths` of the layers that changed, `ratio` of the channels that was cut.

    The widths are relative to the timm architecture as it is built, not to the model that was pruned.
    """

    model: nn.Module
    widths: Widths
    ratio: float
    macs: int
    parameters: int


def prune(
    model: nn.Module,
    architecture: str,
    input_px: int,
    keep_macs: float,
    *,
    importance: Importance = "magnitude",
    scope: Scope = "uniform",
    backward: Callable[[nn.Module], None] | None = None,
) -> Pruned:
    """A copy of `model` with about `keep_macs` (0 to 1) of its multiply-accumulates.

    `model` (in eval mode, on the CPU) stays as it is; timm built it as `architecture`, and it may have been pruned
    before. What leaves together is known to the model's family or found in its dependency graph, and proved before
    anything is cut: units that change places change no answer. Those that matter least go, in multiples of eight, and
    the classifier's outputs stay. "taylor" needs `backward`, which runs tiles through the copy that it is given and
    leaves gradients on its parameters. The share of units is searched by bisection, because layers that keep a multiple
    of eight make the result a step function; what comes closest is taken. The copy needs training before it is worth
    anything. Raises CannotPrune.
    """
    if importance == "taylor" and backward is None:
        raise ValueError("Taylor importance needs gradients: pass backward")
    student = copy.deepcopy(model).eval().requires_grad_(True)
    dimensions = _dimensions(student, family_of(model, architecture), input_px)
    graded = student
    if backward is not None and importance == "taylor":  # on a copy: it may train the norms' statistics as well
        graded = copy.deepcopy(student)
        backward(graded)
    scores = score(graded, dimensions, importance)
    del graded
    search = MacSearch(student, dimensions, scores, scope, input_px)
    best = search.closest(keep_macs)
    if not best.selection.keep:
        raise CannotPrune(NOTHING_TO_SPARE)
    return _cut(student, architecture, input_px, best)


def _dimensions(model: nn.Module, family: Family, input_px: int) -> tuple[Prunable, ...]:
    """All dimensions in which `model` is proved to be narrowable. Raises CannotPrune where there are none."""
    known = family.dimensions(model)
    found: tuple[Prunable, ...] = ()
    if family.traced:
        claimed = {(part.tensor, part.axis) for dimension in known for part in dimension.tensors}
        keeps = {*classifier_names(model), *family.keeps}
        try:
            found = graph_dimensions(model, input_px, keeps=keeps, claimed=claimed)
        except Exception as error:  # whatever torch-pruning trips over
            raise CannotPrune(f"torch-pruning cannot follow this architecture ({type(error).__name__})") from None
    dimensions = tuple(dimension for dimension in (*known, *found) if dimension.units > ROUND_TO)
    if not dimensions:
        raise CannotPrune(NOTHING_TO_SPARE)
    kept = proved(model, dimensions, input_px)
    if not kept:
        raise CannotPrune("its channels cannot be told apart: none can leave without changing the others")
    return kept


def _cut(student: nn.Module, architecture: str, input_px: int, found: Found) -> Pruned:
    tiles = torch.zeros(2, 3, input_px, input_px)
    with torch.no_grad():
        wanted = student(tiles).shape
        keep(student, found.selection)
        try:
            given = student(tiles).shape
        except Exception as error:
            raise cannot_run(error) from None
    if given != wanted:
        raise CannotPrune("pruning changed the outputs of this architecture")
    built = widths_of(build_model(architecture, int(wanted[-1]), input_px))
    macs, parameters = count(student, input_px)
    return Pruned(student, changed_widths(built, widths_of(student)), found.ratio, macs, parameters)
