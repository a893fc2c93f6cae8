"""Golden vectors: tiles with the logits they must give, so that no CPU serves that computes something else."""

from __future__ import annotations

import io
import zipfile

import numpy as np
from numpy.typing import NDArray

from gramserve.errors import ArtifactInvalid, Reason
from gramserve.runtime.engines import Engine

FILE = "golden.npz"


def run_in_batches(engine: Engine, tiles: NDArray[np.uint8], batch_tiles: int) -> NDArray[np.float32]:
    """Logits [N, C] of tiles uint8 [N, S, S, 3], at most `batch_tiles` at a time; N at least 1."""
    parts = [engine.run(tiles[start : start + batch_tiles]) for start in range(0, len(tiles), batch_tiles)]
    return np.concatenate(parts)


def make_golden(engine: Engine, tiles: NDArray[np.uint8], *, tolerance: float, batch_tiles: int) -> bytes:
    """The bytes of golden.npz: `tiles` uint8 [G, S, S, 3], their logits float32 [G, C] and `tolerance`.

    `tolerance` is the largest difference of a logit that another CPU may show.
    """
    file = io.BytesIO()
    logits = run_in_batches(engine, tiles, batch_tiles)
    np.savez_compressed(file, tiles=tiles, logits=logits, tolerance=np.float64(tolerance))
    return file.getvalue()


def check_golden(engine: Engine, data: bytes, *, labels: int, input_px: int, batch_tiles: int) -> float:
    """Runs the golden tiles on this CPU and returns the largest difference of a logit.

    Raises ArtifactInvalid: ARTIFACT_CORRUPT when `data` is not what `make_golden` writes or does not fit `labels` (C)
    and `input_px` (S); ARTIFACT_GOLDEN_MISMATCH when a difference is beyond the tolerance. Raises SlideFailed when the
    engine fails.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            tiles, logits, tolerance = arrays["tiles"], arrays["logits"], float(arrays["tolerance"])
    except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile):
        raise _corrupt("cannot be read") from None
    if tiles.dtype != np.uint8 or tiles.shape != (len(logits), input_px, input_px, 3) or not len(tiles):
        raise _corrupt("does not hold tiles of the model's size")
    if logits.shape != (len(tiles), labels) or not np.isfinite(logits).all():
        raise _corrupt("does not hold one logit for each label")
    computed = run_in_batches(engine, tiles, batch_tiles)
    if computed.shape != logits.shape:
        raise ArtifactInvalid(
            Reason.ARTIFACT_CORRUPT,
            "The model does not give one logit for each label.",
            metadata={"file": "model.onnx"},
        )
    difference = float(np.abs(computed - logits).max())
    if not difference <= tolerance:  # a NaN is a mismatch too
        raise ArtifactInvalid(
            Reason.ARTIFACT_GOLDEN_MISMATCH,
            f"The model computes other numbers on this CPU: off by {difference:.4g} where {tolerance:.4g} is allowed.",
            metadata={"difference": f"{difference:.6g}", "tolerance": f"{tolerance:.6g}"},
        )
    return difference


def golden_tiles(data: bytes) -> NDArray[np.uint8]:
    """The tiles uint8 [G, S, S, 3] of a golden.npz that `check_golden` accepted."""
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        tiles: NDArray[np.uint8] = arrays["tiles"]
    return tiles


def _corrupt(what: str) -> ArtifactInvalid:
    return ArtifactInvalid(Reason.ARTIFACT_CORRUPT, f"{FILE} {what}.", metadata={"file": FILE})
