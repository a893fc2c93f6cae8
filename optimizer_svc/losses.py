"""The losses of fine-tuning and distillation: what a batch's logits are held against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

# (normalised inputs [B, 3, S, S], logits [B, C], targets [B]) -> a scalar.
Loss: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]


def class_weights(targets: Sequence[int] | Tensor, classes: int) -> Tensor:
    """Weights float32 [C] that make every class count alike, whatever its number of tiles."""
    counts = torch.bincount(torch.as_tensor(targets), minlength=classes).clamp(min=1).float()
    return counts.sum() / (classes * counts)


def label_loss(weights: Tensor, smoothing: float = 0.05) -> Loss:
    """Cross entropy against the labels, balanced over classes, with a little label smoothing."""

    def loss(_inputs: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(logits, targets, weight=weights, label_smoothing=smoothing)

    return loss


def distillation_loss(teacher: nn.Module, weights: Tensor, temperature: float = 2.0, label_share: float = 0.2) -> Loss:
    """Teacher's soft answers and the labels (Hinton, Vinyals and Dean 2015, "Distilling the knowledge in a network").

    `temperature` softens both answers; the squared temperature keeps the gradient's size. The teacher, in eval mode,
    sees the very batch that the student sees, augmentation included, so that it teaches a function and not a table
    (Beyer et al. 2022, "Knowledge distillation: a good teacher is patient and consistent").
    """
    by_label = label_loss(weights)

    def loss(inputs: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
        with torch.no_grad():
            soft = functional.log_softmax(teacher(inputs) / temperature, dim=1)
        student = functional.log_softmax(logits / temperature, dim=1)
        distance = functional.kl_div(student, soft, log_target=True, reduction="batchmean") * temperature**2
        return (1 - label_share) * distance + label_share * by_label(inputs, logits, targets)

    return loss
