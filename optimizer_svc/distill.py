"""Recovery of a pruned network: it learns to answer as the checkpoint does."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable

from torch import nn

from optimizer_svc.architecture import InputSpec
from optimizer_svc.losses import class_weights, distillation_loss
from optimizer_svc.tiles import TileSet
from optimizer_svc.train import Epoch, TrainPlan, reestimate_batch_norm, train

LEARNING_RATE = 1e-3
PATIENCE = 10
BATCH = 16


def distill(
    student: nn.Module,
    teacher: nn.Module,
    tiles: TileSet,
    val: TileSet,
    spec: InputSpec,
    *,
    epochs: int,
    seed: int = 0,
    on_epoch: Callable[[Epoch], None] = lambda _epoch: None,
    should_stop: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
    deadline: float = math.inf,
) -> tuple[Epoch, ...]:
    """Trains `student` in place towards `teacher` (left as it is) and gives its epochs; the best one on `val` stays.

    At most `epochs`, fewer when `val` no longer improves or `deadline` (of `clock`) comes near, never less than one.
    """
    teacher = copy.deepcopy(teacher).eval().requires_grad_(False)
    plan = TrainPlan(epochs, LEARNING_RATE, batch=BATCH, patience=PATIENCE, seed=seed)
    loss = distillation_loss(teacher, class_weights(tiles.targets.tolist(), int(tiles.targets.max()) + 1))
    reestimate_batch_norm(student, tiles, spec, seed=seed)
    return train(
        student,
        tiles,
        val,
        spec,
        plan,
        loss,
        on_epoch=on_epoch,
        should_stop=should_stop,
        clock=clock,
        deadline=deadline,
    )
