"""Nights in a real store, written as gateway and workers write them, with real images and times that a test chooses."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import date
from typing import Any
from zoneinfo import ZoneInfo

from gramserve.night.window import Night
from gramserve.store import layout
from gramserve.store.batches import BatchStore
from gramserve.store.objects import ObjectStore
from gramserve.store.records import (
    BatchRecord,
    BatchState,
    Counts,
    ErrorRecord,
    FinalRecord,
    ImageRecord,
    OutcomeRecord,
    Priority,
    RoundRecord,
    SlideRecord,
    SlideState,
    StopRecord,
)
from tests.artifacts import coloured_file

ZONE = ZoneInfo("Europe/Berlin")
NIGHT = Night.of(date(2026, 11, 25), ZONE)
EVENING = NIGHT.begin + 8 * 3600  # 20:00
DIGEST = "d" * 64
HOUR = 3600.0


def call(
    label: str = "GNR", *, review: Sequence[str] = (), image: int = 0, probability: float = 0.97
) -> dict[str, Any]:
    """A call as `Call.to_json` writes it, with one finding and its evidence."""
    evidence = [{"image_index": image, "x": 0, "y": 0, "width": 64, "height": 64, "probability": probability}]
    finding = {"label": label, "probability": probability, "tile_count": 1, "evidence": evidence, "quantity": "FEW"}
    return {
        "outcome": "ORGANISMS_SEEN",
        "findings": [finding],
        "tile_count": 4,
        "review_reasons": list(review),
        "unassessable_reason": "",
    }


class NightStore:
    """Writes batches of the laboratory "north" into `objects`."""

    def __init__(self, objects: ObjectStore) -> None:
        self.objects = objects
        self.batches = BatchStore(objects)

    async def image(self, data: bytes, laboratory: str = "north") -> ImageRecord:
        """An uploaded image."""
        sha256 = hashlib.sha256(data).hexdigest()
        await self.objects.put(layout.slide_path(laboratory, sha256), data)
        return ImageRecord(sha256=sha256)

    async def batch(
        self,
        name: str,
        slides: int,
        *,
        at: float = EVENING,
        priority: Priority = Priority.ROUTINE,
        deliver_by: float | None = None,
        images: Sequence[tuple[ImageRecord, ...]] = (),
        laboratory: str = "north",
        version: str = "models/gram/versions/3",
    ) -> BatchRecord:
        """An accepted batch; slide `n` is called "{name}-n" and has `images[n]`, or one grey field."""
        grey = (await self.image(coloured_file("BACKGROUND"), laboratory),)
        records = [
            SlideRecord(index, f"{name}-{index}", images[index] if index < len(images) else grey)
            for index in range(slides)
        ]
        await self.batches.write_manifest(laboratory, name, records)
        record = BatchRecord(
            laboratory=laboratory,
            batch=name,
            request_id=name,
            fingerprint="",
            model="models/gram",
            model_version=version,
            model_digest=DIGEST,
            slide_count=slides,
            priority=priority,
            deliver_by=deliver_by,
            max_failed_ratio=0.0,
            annotations={},
            create_time=at,
        )
        return await self.batches.create_batch(record)

    async def succeeded(
        self, batch: BatchRecord, index: int, *, wait_s: float = 60.0, run_s: float = 2.0, **outcome: Any
    ) -> None:
        """The slide has a call, `wait_s` + `run_s` after its batch was accepted."""
        defaults: dict[str, Any] = {"call": call(), "artifact_digest": DIGEST, "engine": "onnxruntime 1.32 threads=1"}
        await self._record(batch, index, SlideState.SUCCEEDED, wait_s, run_s, defaults | outcome)

    async def failed(
        self, batch: BatchRecord, index: int, reason: str = "CORRUPT_IMAGE", *, wait_s: float = 60.0, **outcome: Any
    ) -> None:
        """The slide has an error."""
        error = ErrorRecord(reason, f"A sentence about {reason}.")
        await self._record(batch, index, SlideState.FAILED, wait_s, 0.1, {"error": error} | outcome)

    async def _record(
        self, batch: BatchRecord, index: int, state: SlideState, wait_s: float, run_s: float, more: dict[str, Any]
    ) -> None:
        fields: dict[str, Any] = {"round": 0, "time": batch.create_time + wait_s + run_s, "queue_s": wait_s} | more
        outcome = OutcomeRecord(index=index, state=state, **fields)
        assert await self.batches.record_outcome(batch.laboratory, batch.batch, outcome)

    async def cancel(self, batch: BatchRecord, at: float) -> None:
        """Somebody cancelled it."""
        await self.batches.stop(batch.laboratory, batch.batch, 0, StopRecord("CANCELLED", at))

    async def retry(self, batch: BatchRecord, number: int, indices: Sequence[int], at: float) -> None:
        """Round `number` of the slides `indices`."""
        await self.batches.create_round(
            batch.laboratory, batch.batch, RoundRecord(number, f"retry-{number}", tuple(indices), at)
        )

    async def end(self, batch: BatchRecord, states: str, at: float, *, number: int = 0, **counts: int) -> None:
        """The batch has ended with a letter for each slide; `counts` say something else than the letters."""
        names = {"S": "succeeded", "F": "failed", "C": "cancelled", "E": "expired"}
        said = {names[letter]: states.count(letter) for letter in names} | {"total": len(states)} | counts
        final = FinalRecord(number, BatchState.SUCCEEDED, Counts(**said), states, end_time=at)
        await self.batches.finalize(batch.laboratory, batch.batch, final)
