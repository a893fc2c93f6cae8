"""Recovery of a pruned network: it learns to answer as the checkpoint does."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from torch import nn

from optimizer_svc.architecture import InputSpec
from optimizer_svc.losses import class_weights, distillation_loss
from optimizer_svc.teacher import Teacher
from optimizer_svc.tiles import TileSet
from optimizer_svc.train import Epoch, TrainPlan, reestimate_batch_norm, train

LEARNING_RATE = 1e-3
PATIENCE = 10
BATCH = 16


def distill(
    student: nn.Module,
    teacher: Teacher,
    tiles: TileSet,
    val: TileSet,
    spec: InputSpec,
    *,
    epochs: int,
    learning_rate: float = LEARNING_RATE,
    patience: int | None = PATIENCE,
    on_epoch: Callable[[Epoch], None] = lambda _epoch: None,
    should_stop: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
    deadline: float = math.inf,
) -> tuple[Epoch, ...]:
    """Trains `student` in place towards `teacher` and gives its epochs; the best one on `val` stays.

    At most `epochs`, fewer when `val` has not improved for `patience` of them or `deadline` (of `clock`) comes near,
    never less than one.
    """
    plan = TrainPlan(epochs, learning_rate, batch=BATCH, patience=patience, views=teacher.views, seed=teacher.seed)
    loss = distillation_loss(teacher, class_weights(tiles.targets.tolist(), int(tiles.targets.max()) + 1))
    reestimate_batch_norm(student, tiles, spec, seed=teacher.seed)
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
