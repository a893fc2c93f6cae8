"""What every peer has in common: its arguments, and the model as gramserve's worker opens it."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort

MODEL = "bench"
INPUT = "tiles"
OUTPUT = "logits"


@dataclass(frozen=True, slots=True)
class Arguments:
    """Path of model.onnx, edge of its tiles in pixels, the port to serve gRPC on, a spare port, and usable cores."""

    model: str
    edge: int
    port: int
    spare_port: int
    cores: int


def arguments() -> Arguments:
    """The arguments that `benchmarks.peers.servers` gives to each server."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    for name in ("--edge", "--port", "--spare-port", "--cores"):
        parser.add_argument(name, type=int, required=True)
    return Arguments(**vars(parser.parse_args()))


def open_session(path: str) -> ort.InferenceSession:
    """One thread for each run, no spinning; several threads may run it at once."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def infer(session: ort.InferenceSession, tiles: np.ndarray) -> np.ndarray:
    """Logits float32 [N, C] of tiles uint8 [N, S, S, 3]."""
    (logits,) = session.run([OUTPUT], {INPUT: tiles})
    return np.asarray(logits, np.float32)
