"""The losses of fine-tuning and distillation: what a batch's logits are held against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from optimizer_svc.batches import Batch
from optimizer_svc.teacher import Teacher

# (batch of B tiles, logits [B, C]) -> a scalar.
Loss: TypeAlias = Callable[[Batch, Tensor], Tensor]


def class_weights(targets: Sequence[int] | Tensor, classes: int) -> Tensor:
    """Weights float32 [C] that make every class count alike, whatever its number of tiles."""
    counts = torch.bincount(torch.as_tensor(targets), minlength=classes).clamp(min=1).float()
    return counts.sum() / (classes * counts)


def label_loss(weights: Tensor, smoothing: float = 0.05) -> Loss:
    """Cross entropy against the labels, balanced over classes, with a little label smoothing."""

    def loss(batch: Batch, logits: Tensor) -> Tensor:
        own = weights.to(logits.device)
        return functional.cross_entropy(logits, batch.targets, weight=own, label_smoothing=smoothing)

    return loss


def distillation_loss(teacher: Teacher, weights: Tensor, temperature: float = 2.0, label_share: float = 0.2) -> Loss:
    """Teacher's soft answers and the labels (Hinton, Vinyals and Dean 2015, "Distilling the knowledge in a network").

    `temperature` softens both answers; the squared temperature keeps the gradient's size.
    """
    by_label = label_loss(weights)

    def loss(batch: Batch, logits: Tensor) -> Tensor:
        soft = functional.log_softmax(teacher.answers(batch) / temperature, dim=1)
        student = functional.log_softmax(logits / temperature, dim=1)
        distance = functional.kl_div(student, soft, log_target=True, reduction="batchmean") * temperature**2
        return (1 - label_share) * distance + label_share * by_label(batch, logits)

    return loss
