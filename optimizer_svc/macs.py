"""How much work a network does for one tile."""

from __future__ import annotations

import copy
import warnings

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

HOLLOW_FROM = 2_000_000_000  # multiply-accumulates: a few tenths of a second


def count(model: nn.Module, input_px: int) -> tuple[int, int]:
    """(multiply-accumulates of one tile, parameters); those of attention's products are counted too."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return macs(model, input_px), parameters


def macs(model: nn.Module, input_px: int) -> int:
    """Multiply-accumulates of convolutions, linear layers and attention's products for one tile of `input_px`."""
    device = next(model.parameters()).device
    counter = FlopCounterMode(
        display=False,
        # The one fused attention that PyTorch's table leaves out is that of the CPU.
        custom_mapping={torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops},
    )
    with torch.no_grad(), warnings.catch_warnings(), counter:
        warnings.simplefilter("ignore")
        model(torch.zeros(1, 3, input_px, input_px, device=device))
    return counter.get_total_flops() // 2


def countable(model: nn.Module, input_px: int) -> nn.Module:
    """What to count on, many times: `model` itself where it runs quickly, else a copy of it without numbers.

    Both give the same counts.
    """
    if macs(model, input_px) < HOLLOW_FROM:
        return model
    empty = copy.deepcopy(model).to("meta")
    try:
        macs(empty, input_px)
    except Exception:  # the model reads a number while it runs
        return model
    return empty


def _attention_flops(
    queries: torch.Size, keys: torch.Size, values: torch.Size, *_rest: object, **_options: object
) -> int:
    batch, heads, tokens, width = queries
    return 2 * batch * heads * tokens * keys[2] * (width + values[3])
