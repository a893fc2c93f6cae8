"""Whether a choice is as right when its tiles are turned: a second look that small val splits need."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from optimizer_svc.acceptance import Comparison
from optimizer_svc.confirm import LOOKS
from optimizer_svc.evaluate import Trial, answer, choose
from optimizer_svc.ingest import Ingested
from optimizer_svc.networks import ORIGINAL
from optimizer_svc.pace import Pace
from optimizer_svc.severity import very_major_errors
from optimizer_svc.spec import OptimizationSpec, Stage
from optimizer_svc.tiles import TileSet
from optimizer_svc.train import predict
from optimizer_svc.workspace import Kept, Workspace

# So many tiles are looked at, turned ones included; a val split of that size needs no turned ones.
ENOUGH_TILES = 800
SYMMETRIES = 8
# Of the margin that all errors have, very major ones have a quarter.
SEVERE_SHARE = 0.25

Predictions = NDArray[np.int64]


def settle(
    trials: Sequence[Trial], spec: OptimizationSpec, ingested: Ingested, workspace: Workspace, pace: Pace
) -> tuple[Trial, ...]:
    """The trials with those refused that would be chosen and are less right than the checkpoint on turned tiles.

    The search picks the best of many on one split, and the narrowest network that just passes is the likeliest to have
    passed by luck. Turned and mirrored tiles are as likely under a microscope; both networks were trained on all eight
    symmetries. They are no independent tiles, so they refuse and never prove. Only what would be chosen is looked at.
    """
    views = turned(ingested.val)
    if len(views) == 0:
        return tuple(trials)
    steady = _Steady(views, spec, ingested, workspace)
    settled = {trial.candidate.name: trial for trial in trials}
    while (best := choose(list(settled.values()))) is not None:
        pace.say(Stage.ACCEPT, f"Reading turned val tiles with {best.candidate.name}")
        reason = steady.reason_against(best)
        if not reason:
            break
        assert best.comparison is not None
        settled[best.candidate.name] = replace(best, comparison=_refused(best.comparison, reason))
    return tuple(settled.values())


def shortlist(
    trials: Sequence[Trial], spec: OptimizationSpec, ingested: Ingested, workspace: Workspace, pace: Pace
) -> tuple[tuple[Trial, ...], tuple[Trial, ...]]:
    """(all trials, the best of every network that holds on turned tiles: the choice first, then by their speed).

    Of the networks behind the choice only `LOOKS` - 1 stay; the checkpoint's own is one of them where it holds, because
    it is the likeliest to hold elsewhere.
    """
    settled: dict[str, Trial] = {trial.candidate.name: trial for trial in trials}
    picks: list[Trial] = []
    for name in dict.fromkeys(trial.candidate.network.name for trial in trials):
        own = [trial for trial in trials if trial.candidate.network.name == name]
        own = list(settle(own, spec, ingested, workspace, pace))
        settled |= {trial.candidate.name: trial for trial in own}
        if (best := choose(own)) is not None:
            picks.append(best)
    if (chosen := choose(picks)) is None:
        return tuple(settled.values()), ()
    others = sorted((pick for pick in picks if pick is not chosen), key=_seconds)
    safest = [pick for pick in others if pick.candidate.network.name == ORIGINAL][:1]
    rest = [pick for pick in others if pick not in safest][: LOOKS - 1 - len(safest)]
    return tuple(settled.values()), (chosen, *rest, *safest)


def turned(tiles: TileSet) -> TileSet:
    """Other symmetries of `tiles`, as many as make about ENOUGH_TILES with them; none where they are enough."""
    count = min(SYMMETRIES, math.ceil(ENOUGH_TILES / max(1, len(tiles)))) - 1
    if count < 1:
        return TileSet(tiles.tiles[:0], tiles.targets[:0])
    views = [_symmetry(tiles.tiles, 1 + k) for k in range(count)]
    return TileSet(np.ascontiguousarray(np.concatenate(views)), np.tile(tiles.targets, count))


class _Steady:
    def __init__(self, views: TileSet, spec: OptimizationSpec, ingested: Ingested, workspace: Workspace) -> None:
        self._views = views
        self._spec = spec
        self._ingested = ingested
        self._workspace = workspace
        checkpoint = ingested.checkpoint
        self._before = self._kept({}, lambda: predict(checkpoint.model, views.tiles, checkpoint.input))

    def reason_against(self, trial: Trial) -> str:
        """A sentence that says how a candidate falls short of the checkpoint on the turned tiles; "" if it does not."""
        after = self._kept(trial.candidate.key, lambda: answer(trial.candidate, self._views.tiles))
        targets, margin = self._views.targets, self._spec.margin
        fall = float((self._before == targets).mean() - (after == targets).mean())
        if fall > margin + 1e-9:
            return f"on turned val tiles accuracy falls by {fall:.2%}, more than the margin of {margin:.2%}"
        severe = [float(very_major_errors(p, targets, self._spec.labels).any.mean()) for p in (self._before, after)]
        if severe[1] - severe[0] > SEVERE_SHARE * margin + 1e-9:
            return f"on turned val tiles very major errors rise from {severe[0]:.2%} to {severe[1]:.2%}"
        return ""

    def _kept(self, key: dict[str, object], make: Callable[[], NDArray[np.float32]]) -> Predictions:
        def kept() -> Kept:
            file = io.BytesIO()
            np.save(file, make().argmax(axis=1).astype(np.int64), allow_pickle=False)
            return Kept({}, {"called.npy": file.getvalue()})

        found = self._workspace.once("turned", {**self._ingested.identity, **key}, kept).files["called.npy"]
        called: Predictions = np.load(io.BytesIO(found), allow_pickle=False)
        return called


def _seconds(trial: Trial) -> float:
    return trial.latency.median_s if trial.latency else math.inf


def _refused(comparison: Comparison, reason: str) -> Comparison:
    return replace(comparison, failures=(*comparison.failures, reason), accepted=False)


def _symmetry(tiles: NDArray[np.uint8], which: int) -> NDArray[np.uint8]:
    """Tiles [N, S, S, 3] under symmetry 1 to 7: mirrored ones and turned ones in turn, the most different first."""
    turns, mirrored = ((2, 0), (0, 1), (1, 0), (3, 0), (1, 1), (2, 1), (3, 1))[which - 1]
    moved = np.rot90(tiles, turns, axes=(1, 2))
    return moved[:, :, ::-1] if mirrored else moved
