"""Where training runs: on a GPU when there is one, which nothing needs."""

from __future__ import annotations

import torch


def training_device() -> torch.device:
    """The GPU that torch sees first, else the CPU; speed is always measured on the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
