"""The tiles that are called wrongly: as rows for the report, and as pictures for its page."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gramserve.runtime.aggregate import probabilities
from gramserve.store.manifest import Label
from optimizer_svc.severity import very_major_errors
from optimizer_svc.splits import Split

PICTURE_PX = 112
MAX_PICTURES = 120
JPEG_QUALITY = 85
MISSED, FLIPPED, OTHER = "missed organism", "Gram flip", "other"

Logits = NDArray[np.float32]


def errors(
    reference: Logits, artifact: Logits | None, temperature: float, split: Split, labels: Sequence[Label]
) -> list[dict[str, Any]]:
    """The tiles of `split` that the artifact, or the checkpoint where there is none, calls wrongly; the worst first.

    `reference` and `artifact` are logits [N, C], `temperature` is the artifact's. A row is JSON-ready: `place` in the
    split, `tile` (the start of the file's SHA-256, by which its owner finds it), what it is, what both call it with
    which probability (the checkpoint's as it is, the artifact's calibrated), how severe that is, and whether only the
    artifact is wrong (`new`). Very major errors that are new come first, then other very major ones, then new ones.
    """
    targets = np.array([sample.target for sample in split.samples], np.int64)
    before = probabilities(reference, 1.0)
    after = None if artifact is None else probabilities(artifact, temperature)
    judged = before if after is None else after
    called = judged.argmax(axis=1)
    severe = very_major_errors(called, targets, labels)
    was_severe = very_major_errors(before.argmax(axis=1), targets, labels).any
    rows = []
    for place in np.flatnonzero(called != targets):
        kind = MISSED if severe.missed[place] else FLIPPED if severe.flipped[place] else OTHER
        was_wrong = bool(before[place].argmax() != targets[place])
        rows.append(
            {
                "place": int(place),
                "tile": split.samples[place].sha256[:12],
                "true": labels[targets[place]].name,
                "checkpoint": _call(before[place], labels),
                "artifact": None if after is None else _call(after[place], labels),
                "severity": kind,
                "new": after is not None and not (was_severe[place] if kind != OTHER else was_wrong),
            }
        )
    return sorted(rows, key=lambda row: (row["severity"] == OTHER, not row["new"], -float(judged[row["place"]].max())))


def pictures(rows: Sequence[Mapping[str, Any]], tiles: NDArray[np.uint8]) -> dict[int, str]:
    """Thumbnails (data URIs of JPEG, at most 112 pixels wide) of the first 120 of `rows`, by their place in `tiles`.

    `tiles` are uint8 RGB [N, S, S, 3]. A JPEG made here holds pixels and nothing else of the file it came from.
    """
    return {row["place"]: _picture(tiles[row["place"]]) for row in rows[:MAX_PICTURES]}


def _call(chance: NDArray[np.float64], labels: Sequence[Label]) -> dict[str, Any]:
    top = int(chance.argmax())
    return {"label": labels[top].name, "probability": round(float(chance[top]), 4)}


def _picture(tile: NDArray[np.uint8]) -> str:
    if tile.shape[0] > PICTURE_PX:
        tile = np.asarray(cv2.resize(tile, (PICTURE_PX, PICTURE_PX), interpolation=cv2.INTER_AREA), np.uint8)
    bgr = np.ascontiguousarray(tile[:, :, ::-1])
    done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert done  # any picture of bytes can be written as JPEG
    return f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}"
