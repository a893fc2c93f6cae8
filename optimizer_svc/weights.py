"""Safe reading of weights files: nothing in the file is ever executed."""

from __future__ import annotations

import argparse
import hashlib
import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gramserve.errors import InvalidInput, Reason

METADATA_KEY = "gramserve"
MAX_CHECKPOINT_BYTES = 8 * 2**30
# timm's train.py writes state_dict and state_dict_ema; other trainers the rest. The averaged weights come first.
EMA_KEYS = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
PLAIN_KEYS = ("state_dict", "model", "model_state_dict", "weights")
PREFIXES = ("module.", "_orig_mod.", "model.")


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], list[str]]:
    """Reads a checkpoint file: (weights by name, gramserve's metadata or {}, notes for the report)."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(16)
    except OSError:
        raise _unreadable("the checkpoint cannot be read") from None
    if size > MAX_CHECKPOINT_BYTES:
        raise _unreadable(f"the checkpoint is larger than {MAX_CHECKPOINT_BYTES} bytes")
    if head.startswith(b"PK\x03\x04"):
        state, notes = _read_torch_zip(path)
        metadata: dict[str, Any] = {}
    elif head[8:9] == b"{":
        state, metadata = _read_safetensors(path)
        notes = []
    elif head.startswith((b"\x80", b"\x1f\x8b", b"ustar")):
        raise _unsafe("the checkpoint is an old pickle file, which can run code: save it again as safetensors")
    else:
        raise _unreadable("the checkpoint is neither a safetensors nor a torch zip file")
    if not state:
        raise _unreadable("the checkpoint holds no weights")
    if any(t.is_floating_point() and not bool(torch.isfinite(t).all()) for t in state.values()):
        raise _unreadable("the checkpoint holds weights that are not finite numbers")
    return state, metadata, notes


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            text = (file.metadata() or {}).get(METADATA_KEY, "{}")
        metadata = json.loads(text)
    except (SafetensorError, OSError, ValueError, RuntimeError):
        raise _unreadable("the safetensors file is damaged") from None
    if not isinstance(metadata, dict):
        raise _unreadable("the metadata of the safetensors file is damaged")
    return _strip(state), metadata


def _read_torch_zip(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(info.file_size for info in archive.infolist()) > MAX_CHECKPOINT_BYTES:
                raise _unreadable(f"the checkpoint unpacks to more than {MAX_CHECKPOINT_BYTES} bytes")
        # timm's train.py stores its command line, an argparse.Namespace: plain data, rebuilt without a call.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise _unsafe(
            "the checkpoint holds more than weights and plain values, which could run code: save its state_dict alone"
        ) from None
    except (zipfile.BadZipFile, RuntimeError, OSError, EOFError, ValueError, KeyError, TypeError, AttributeError):
        raise _unreadable("the checkpoint is not a readable torch zip file") from None
    return _state_in(content)


def _state_in(content: object) -> tuple[dict[str, Tensor], list[str]]:
    if not isinstance(content, Mapping):
        raise _unreadable("the checkpoint holds no state_dict")
    for keys, note in ((EMA_KEYS, ["The averaged (EMA) weights of the checkpoint were used."]), (PLAIN_KEYS, [])):
        for key in keys:
            inner = content.get(key)
            if isinstance(inner, Mapping) and any(isinstance(v, Tensor) for v in inner.values()):
                return _strip(inner), list(note)
    return _strip(content), []


def _strip(state: Mapping[Any, Any]) -> dict[str, Tensor]:
    """Only named tensors, without the prefixes that wrappers (DataParallel, compile, Lightning) put before all."""
    tensors = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    stripped = True
    while stripped and tensors:
        stripped = False
        for prefix in PREFIXES:
            if all(name.startswith(prefix) for name in tensors):
                tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
                stripped = True
    return tensors


def _unreadable(message: str) -> InvalidInput:
    return InvalidInput(Reason.CHECKPOINT_UNREADABLE, message)


def _unsafe(message: str) -> InvalidInput:
    return InvalidInput(Reason.CHECKPOINT_UNSAFE, message)
