"""The one training loop: fine-tuning and distillation differ only in their loss."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from optimizer_svc.architecture import InputSpec
from optimizer_svc.batches import batches, normalise, unit
from optimizer_svc.device import training_device
from optimizer_svc.losses import Loss
from optimizer_svc.spec import Stopped
from optimizer_svc.tiles import TileSet

PREDICT_BATCH = 64
# Below so many channels the CPU's backward convolutions write past their buffers on channels-last tensors with several
# threads (torch 2.14, oneDNN: "corrupted size vs. prev_size" with a resnet18 of 4 % of its work); contiguous is sound.
NARROW = 16


@dataclass(frozen=True, slots=True)
class TrainPlan:
    """How to train: AdamW, warm-up over `warmup_share` of the steps, then a cosine to zero.

    `patience` epochs without a better validation result end the training early (None: never). `frozen` trains the
    classifier alone, with the backbone in eval mode so that its batch-norm statistics stay those of its pre-training.
    After `views` epochs tiles look as they did in the first one again (None: always new).
    """

    epochs: int
    learning_rate: float
    weight_decay: float = 0.02
    batch: int = 32
    warmup_share: float = 0.1
    patience: int | None = None
    frozen: tuple[str, ...] = ()  # names of the classifier modules that train alone; empty: everything trains
    views: int | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch's result; `number` counts from 1; accuracy and loss (plain cross entropy) are of the val tiles."""

    number: int
    train_loss: float
    val_accuracy: float
    val_loss: float

    @property
    def rank(self) -> tuple[float, float]:
        """Higher is better: accuracy first, then the lower loss."""
        return self.val_accuracy, -self.val_loss


def train(
    model: nn.Module,
    tiles: TileSet,
    val: TileSet,
    spec: InputSpec,
    plan: TrainPlan,
    loss: Loss,
    *,
    on_epoch: Callable[[Epoch], None] = lambda _epoch: None,
    should_stop: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
    deadline: float = math.inf,
) -> tuple[Epoch, ...]:
    """Trains `model` in place and leaves it in eval mode with the weights of its best epoch on `val`.

    The same seed, data and number of threads give the same weights. No epoch starts that would end past `deadline`
    (of `clock`) by the time the last one took, but there is always one. It runs on a GPU where there is one and brings
    the model back. Raises Stopped when `should_stop`.
    """
    device = training_device()
    model.to(device)
    narrow = is_narrow(model)
    random = torch.Generator().manual_seed(plan.seed)
    weights = _trainable(model, plan.frozen)
    optimizer = torch.optim.AdamW(_decayed(weights, plan.weight_decay), lr=plan.learning_rate)
    steps = plan.epochs * math.ceil(len(tiles) / plan.batch)
    history: list[Epoch] = []
    best, best_state = None, {}
    begin, step = clock(), 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        for number in range(1, plan.epochs + 1):
            started = clock()
            total = 0.0
            _set_training(model, plan.frozen)
            seen = (number - 1) % plan.views if plan.views else number - 1
            for batch in batches(tiles, spec, plan.batch, random, seed=plan.seed, number=seen, device=device):
                if should_stop():
                    raise Stopped
                value = loss(batch, model(batch.inputs.contiguous() if narrow else batch.inputs))
                optimizer.zero_grad(set_to_none=True)
                value.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_([w for _, w in weights], 5.0)
                # Where the deadline comes before the last epoch, the rate falls with time, so that it ends low, too.
                time_share = (clock() - begin) / (deadline - begin) if deadline > begin else 0.0
                for group in optimizer.param_groups:
                    group["lr"] = plan.learning_rate * _rate(max(step / steps, time_share), plan.warmup_share, steps)
                optimizer.step()
                step += 1
                total += float(value.detach()) * len(batch.rows)
            model.eval()
            accuracy, val_loss = score(predict(model, val.tiles, spec), val.targets)
            epoch = Epoch(number, total / len(tiles), accuracy, val_loss)
            history.append(epoch)
            on_epoch(epoch)
            if best is None or epoch.rank > best.rank:
                best, best_state = epoch, {n: t.detach().clone() for n, t in model.state_dict().items()}
            if plan.patience is not None and number - best.number >= plan.patience:
                break
            if clock() + (clock() - started) > deadline:
                break
    model.load_state_dict(best_state)
    model.to("cpu")
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    model.eval()
    return tuple(history)


def is_narrow(model: nn.Module) -> bool:
    """Whether a dense convolution of `model` has fewer than NARROW channels to give."""
    return any(m.groups == 1 and m.out_channels < NARROW for m in model.modules() if isinstance(m, nn.Conv2d))


def predict(model: nn.Module, tiles: NDArray[np.uint8], spec: InputSpec) -> NDArray[np.float32]:
    """Logits float32 [N, C] of uint8 tiles [N, S, S, 3] by torch, where `model` is; it is in eval mode."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    parts = []
    with torch.inference_mode():
        for i in range(0, len(tiles), PREDICT_BATCH):
            inputs = normalise(unit(torch.from_numpy(tiles[i : i + PREDICT_BATCH])), spec)
            parts.append(model(inputs.to(device)).float().cpu().numpy())
    return np.concatenate(parts)


def score(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> tuple[float, float]:
    """(accuracy 0 to 1, mean cross entropy in nats) of logits [N, C]."""
    accuracy = float((logits.argmax(axis=1) == targets).mean())
    return accuracy, float(functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(targets)))


def reestimate_batch_norm(model: nn.Module, tiles: TileSet, spec: InputSpec, *, seed: int = 0) -> None:
    """Replaces batch-norm statistics by those of `tiles`: pruned channels changed what every later layer sees.

    A cumulative average over one pass in training mode, without gradients. Models without batch norm are left alone.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    model.train()
    with torch.no_grad():
        order = torch.Generator().manual_seed(seed)
        for batch in batches(tiles, spec, PREDICT_BATCH, order, seed=seed, number=0, device=torch.device("cpu")):
            model(batch.inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def _trainable(model: nn.Module, only: tuple[str, ...]) -> list[tuple[str, nn.Parameter]]:
    chosen = []
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not only or name.rsplit(".", 1)[0] in only)
        if parameter.requires_grad:
            chosen.append((name, parameter))
    return chosen


def _decayed(weights: list[tuple[str, nn.Parameter]], decay: float) -> list[dict[str, object]]:
    """Weight decay for matrices and kernels only, not for biases and norms."""
    return [
        {"params": [w for _, w in weights if w.ndim > 1], "weight_decay": decay},
        {"params": [w for _, w in weights if w.ndim <= 1], "weight_decay": 0.0},
    ]


def _set_training(model: nn.Module, only: tuple[str, ...]) -> None:
    model.train(not only)


def _rate(done: float, warmup_share: float, steps: int) -> float:
    """The share of the learning rate when `done` (0 to 1) of the training is over: a line up, then a cosine to zero."""
    if done < warmup_share:
        return (done + 1 / steps) / warmup_share
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (done - warmup_share) / (1 - warmup_share))))
