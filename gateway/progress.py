"""When the open batches will be done: the order in which they are worked on, at the rate at which slides end now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gateway.placement import due_s
from gateway.views import BatchView
from gramserve.store.records import Priority


@dataclass(frozen=True, slots=True)
class Forecast:
    """Open batches in the order of work, with `estimated_end_time`; `late` of their slides end after they are due.

    `per_second` slides end now, 0 when nothing runs; `end_time` is when the last one will have ended, Unix seconds.
    """

    batches: tuple[BatchView, ...]
    per_second: float
    end_time: float | None
    late: int


def forecast(views: Sequence[BatchView], now: float, per_second: float) -> Forecast:
    """The forecast for open batches at `now`, Unix seconds, from the slides that end in a second.

    STAT comes first, then what is due first, then what was accepted first: as the queue gives slides out.
    """
    ordered = sorted(views, key=_turn)
    if per_second <= 0:
        overdue = sum(_left(view) for view in ordered if _due(view) <= now)
        return Forecast(tuple(replace(view, estimated_end_time=None) for view in ordered), 0.0, None, overdue)
    told, before, late = [], 0, 0
    for view in ordered:
        left = _left(view)
        told.append(replace(view, estimated_end_time=now + (before + left) / per_second))
        in_time = max(0, int((_due(view) - now) * per_second) - before) if view.record.deliver_by is not None else left
        late += left - min(left, in_time)
        before += left
    return Forecast(tuple(told), per_second, now + before / per_second if before else None, late)


def _turn(view: BatchView) -> tuple[bool, float, float]:
    wanted = due_s(view.record, view.record.create_time)
    return (view.record.priority is not Priority.STAT, wanted, view.record.create_time)


def _due(view: BatchView) -> float:
    return float("inf") if view.record.deliver_by is None else view.record.deliver_by


def _left(view: BatchView) -> int:
    return view.counts.queued + view.counts.running
