"""The networks that candidates are made from: the checkpoint's own and its pruned, recovered copies."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from safetensors.torch import load, save
from torch import nn

from optimizer_svc.architecture import build_model
from optimizer_svc.ingest import Ingested
from optimizer_svc.prune import count
from optimizer_svc.widths import Widths, apply_widths
from optimizer_svc.workspace import Kept

ORIGINAL = "original"


@dataclass(frozen=True, slots=True)
class Network:
    """A network in fp32: its multiply-accumulates for one tile, parameters, and the widths that pruning changed.

    `facts` says how it was made: its parent, share of MACs asked for, importance, scope, share of channels cut, epochs
    of distillation [number, train loss, val accuracy, val loss]; `digest` is the SHA-256 of its weights.
    """

    name: str
    model: nn.Module
    macs: int
    parameters: int
    widths: Widths
    facts: dict[str, Any]
    digest: str


def original(ingested: Ingested) -> Network:
    """The checkpoint as it came."""
    macs, parameters = count(ingested.checkpoint.model, ingested.checkpoint.input.px)
    return Network(ORIGINAL, ingested.checkpoint.model, macs, parameters, {}, {}, ingested.checkpoint.sha256)


def keep_network(model: nn.Module, macs: int, parameters: int, widths: Widths, facts: dict[str, Any]) -> Kept:
    """A network as a stage keeps it: widths and safetensors, never a pickle."""
    state = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    about = {"macs": macs, "parameters": parameters, "widths": widths, **facts}
    return Kept(about, {"weights.safetensors": save(state)})


def kept_network(name: str, kept: Kept, architecture: str, classes: int, input_px: int) -> Network:
    """The network that `keep_network` kept, rebuilt from the timm architecture, in eval mode."""
    facts = dict(kept.facts)
    macs, parameters, widths = (facts.pop(key) for key in ("macs", "parameters", "widths"))
    weights = kept.files["weights.safetensors"]
    state = load(weights)
    model = build_model(architecture, classes, input_px)
    apply_widths(model, widths, {key: tensor.shape for key, tensor in state.items()})
    model.load_state_dict(state)
    return Network(name, model.eval(), macs, parameters, widths, facts, hashlib.sha256(weights).hexdigest())


def probe(ingested: Ingested, size: int = 16) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Training tiles of every class for the gates, uint8 [size, S, S, 3]; few tiles are repeated."""
    tiles = ingested.train.tiles
    return np.ascontiguousarray(tiles[np.linspace(0, len(tiles) - 1, size).astype(int)])
