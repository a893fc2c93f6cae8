"""Reads a batch's hash in Redis into a `Snapshot`."""

from __future__ import annotations

from collections.abc import Mapping

from gramserve.queue.states import Snapshot


def snapshot_of(fields: Mapping[str, str]) -> Snapshot:
    """The snapshot that the fields of a batch hash say.

    What waits is not counted but is what remains of the total: so the counts add up at every moment, from the moment
    the batch is opened and before its slides are submitted.
    """
    number = {name: int(value) for name, value in fields.items() if name not in _TEXT}
    ended = sum(number[state] for state in ("succeeded", "failed", "cancelled", "expired"))
    first_ms, last_ms = number.get("first_ms"), number.get("last_ms")
    seconds = (last_ms - first_ms) / 1000 if first_ms is not None and last_ms is not None else 0.0
    return Snapshot(
        round=number["round"],
        total=number["total"],
        queued=number["total"] - number["running"] - ended,
        running=number["running"],
        succeeded=number["succeeded"],
        failed=number["failed"],
        cancelled=number["cancelled"],
        expired=number["expired"],
        review=number["review"],
        live=number["live"],
        submitted=number["sealed"] == 1,
        stopping=fields["stopping"],
        finished=fields["finished"],
        first_start_s=None if first_ms is None else first_ms / 1000,
        last_end_s=None if last_ms is None else last_ms / 1000,
        last_sequence=number["sequence"],
        version=fields["version"],
        digest=fields["digest"],
        done_rate=(ended - number["base"]) / seconds if seconds > 0 else 0.0,
    )


_TEXT = frozenset({"version", "digest", "stopping", "finished"})
