"""A system status as a person reads it in a terminal."""

from __future__ import annotations

from collections import Counter
from datetime import UTC

from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gramserve.cli.speech import word
from gramserve.night.words import NOTHING, duration, number, percent
from gramserve.queue import QUIET_S
from gramserve.rpc.status import from_status
from gramserve.v1.operations_pb2 import SystemStatus, WorkerStatus
from gramserve.v1.slide_batch_pb2 import CompletionStats, SlideBatch

STAT_WAIT_S = 60.0
"""A STAT slide that has waited for so long needs a person."""
MOST_BATCHES = 15
MOST_WORKERS = 20


def alarms(status: SystemStatus) -> list[str]:
    """What a person must do something about, in sentences; empty when the night goes well."""
    found = []
    waiting = status.queue.stat_count + status.queue.routine_count
    if waiting and not any(map(_takes_slides, status.workers)):
        found.append(f"{number(waiting)} slides wait, and no worker takes slides")
    if status.late_count:
        found.append(f"{number(status.late_count)} slides will not be done when they are due")
    if (waited := status.queue.oldest_stat_wait.ToTimedelta().total_seconds()) > STAT_WAIT_S:
        found.append(f"a STAT slide has waited for {duration(waited)}")
    if status.damaged_slide_batches:
        first, more = status.damaged_slide_batches[0], len(status.damaged_slide_batches) - 1
        found.append(f"records of {first}{f' and {more} more' if more else ''} are damaged; restore them from a backup")
    if len({worker.release for worker in status.workers} | {status.release}) > 1:
        found.append("gateway and workers are of different releases")
    return found


def status_view(status: SystemStatus, address: str) -> RenderableType:
    """All of it, as wide as the terminal."""
    parts: list[RenderableType] = [_head(status, address), Text()]
    parts += [Text(f"! {alarm}", style="bold red") for alarm in alarms(status)]
    parts += [_slides(status), _progress(status)]
    if status.others_open and _left(status.completion_stats):
        parts.append(Text("other laboratories have slides too: those above may end later than told", style="yellow"))
    parts += [_queue(status), Text(), _workers(status)]
    if failures := _failures(status):
        parts += [Text(), failures]
    if status.slide_batches:
        parts += [Text(), _batches(status)]
    return Group(*parts)


def _head(status: SystemStatus, address: str) -> RenderableType:
    head = Table.grid(expand=True)
    head.add_column()
    head.add_column(justify="right")
    head.add_row(
        Text.assemble(("gramserve", "bold"), f" {status.release} at {address}"),
        f"{status.time.ToDatetime(UTC).astimezone():%Y-%m-%d %H:%M:%S}",
    )
    return head


def _slides(status: SystemStatus) -> Text:
    stats = status.completion_stats
    text = Text.assemble(
        (number(stats.total_count), "bold"), " slides = ", f"{number(stats.succeeded_count)} succeeded"
    )
    for count, what, style in (
        (stats.failed_count, "failed", "red"),
        (stats.expired_count, "expired", "yellow"),
        (stats.cancelled_count, "cancelled", "dim"),
        (_left(stats), "to do", "bold"),
    ):
        text.append(" + ")
        text.append(f"{number(count)} {what}", style=style if count else "")
    review = percent(stats.review_count / stats.succeeded_count if stats.succeeded_count else None)
    return text.append(f"   {number(stats.review_count)} for review ({review})")


def _progress(status: SystemStatus) -> RenderableType:
    stats = status.completion_stats
    done = stats.total_count - _left(stats)
    line = Table.grid(padding=(0, 2), expand=True)
    line.add_column(ratio=1)
    line.add_column(no_wrap=True)
    rate = f"{status.slides_per_second:.1f} slides/s" if status.slides_per_second else "nothing runs"
    ends = f"done at {_clock(status.estimated_end_time)}" if status.HasField("estimated_end_time") else ""
    bar = ProgressBar(total=max(1, stats.total_count), completed=done, complete_style="green", finished_style="green")
    line.add_row(bar, "   ".join(part for part in (percent(done / max(1, stats.total_count)), rate, ends) if part))
    return line


def _queue(status: SystemStatus) -> Text:
    queue = status.queue
    text = Text(f"queue: {number(queue.stat_count)} STAT", style="")
    text.append(f" (oldest {_span(queue.oldest_stat_wait.ToTimedelta().total_seconds(), queue.stat_count)})")
    text.append(f", {number(queue.routine_count)} routine")
    text.append(f" (oldest {_span(queue.oldest_routine_wait.ToTimedelta().total_seconds(), queue.routine_count)})")
    text.append(f", {number(queue.leased_count)} with workers, {number(queue.delayed_count)} to be tried again")
    return text


def _span(seconds: float, count: int) -> str:
    return duration(seconds) if count else NOTHING


def _workers(status: SystemStatus) -> RenderableType:
    if not status.workers:
        return Text(
            "no worker was heard of in the last 30 seconds",
            style="bold red" if _left(status.completion_stats) else "yellow",
        )
    table = _table("worker", "release", "children", "slides", "longest", "seen", "model versions")
    for worker in status.workers[:MOST_WORKERS]:
        table.add_row(
            worker.worker_id,
            worker.release,
            f"{worker.ready_children} of {worker.children}",
            number(worker.leased_count),
            _span(worker.longest_lease.ToTimedelta().total_seconds(), worker.leased_count),
            f"{duration(worker.age.ToTimedelta().total_seconds())} ago",
            ", ".join(map(_version, worker.model_versions)),
            style=_worker_style(worker),
        )
    if len(status.workers) > MOST_WORKERS:
        table.add_row(f"... and {len(status.workers) - MOST_WORKERS} more")
    return table


def _takes_slides(worker: WorkerStatus) -> bool:
    return worker.serving and worker.age.ToTimedelta().total_seconds() < QUIET_S


def _worker_style(worker: WorkerStatus) -> str:
    if not _takes_slides(worker):
        return "red"
    return "yellow" if worker.ready_children < worker.children else ""


def _failures(status: SystemStatus) -> Text | None:
    """Why slides of ended batches failed; batches tell at most 20 of their failures."""
    reasons = Counter(
        from_status(failure).reason.value for batch in status.slide_batches for failure in batch.partial_failures
    )
    if not reasons:
        return None
    text = Text("failures in ended batches: ")
    return text.append(", ".join(f"{reason} {count}" for reason, count in reasons.most_common(6)), style="red")


def _batches(status: SystemStatus) -> RenderableType:
    table = _table("batch", "priority", "state", "slides", "done", "failed", "review", "due", "ends", "model version")
    for batch in status.slide_batches[:MOST_BATCHES]:
        stats = batch.completion_stats
        ended = batch.HasField("end_time")
        ends = batch.end_time if ended else batch.estimated_end_time
        late = batch.HasField("deliver_by") and ends.ToMicroseconds() > batch.deliver_by.ToMicroseconds()
        table.add_row(
            batch.name.removeprefix("laboratories/").replace("/slideBatches/", "/"),
            word(SlideBatch.Priority.DESCRIPTOR, batch.priority, "PRIORITY_").upper(),
            word(SlideBatch.State.DESCRIPTOR, batch.state, "STATE_"),
            number(stats.total_count),
            number(stats.total_count - _left(stats)),
            Text(number(stats.failed_count), style="red" if stats.failed_count else ""),
            number(stats.review_count),
            _clock(batch.deliver_by),
            Text(
                f"{'' if ended else '~'}{_clock(ends)}" if ends.seconds else NOTHING, style="bold red" if late else ""
            ),
            _version(batch.model_version),
            style="dim" if ended else "",
        )
    if status.slide_batch_count > MOST_BATCHES:
        table.add_row(f"... and {number(status.slide_batch_count - MOST_BATCHES)} more")
    return table


def _table(*columns: str) -> Table:
    table = Table(*columns, box=None, pad_edge=False, header_style="dim")
    for column in table.columns:
        column.no_wrap = True
        if column.header in {"slides", "done", "failed", "review", "longest"}:
            column.justify = "right"
    return table


def _left(stats: CompletionStats) -> int:
    """Slides without an end."""
    return stats.queued_count + stats.running_count


def _version(name: str) -> str:
    """A model version in short: gram 3."""
    return name.removeprefix("models/").replace("/versions/", " ")


def _clock(at: Timestamp) -> str:
    return f"{at.ToDatetime(UTC).astimezone():%H:%M}" if at.seconds else NOTHING
