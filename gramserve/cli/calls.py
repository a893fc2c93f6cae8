"""Calls of slides as people and programs read them: a table, and JSON Lines."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from google.protobuf.json_format import MessageToJson
from rich.console import Console
from rich.table import Table

from gramserve.rpc.status import from_status
from gramserve.v1.slide_pb2 import Call, Slide

MAX_ROWS = 100


def call_text(slide: Slide) -> str:
    """The call of a slide in a few words: "GNR, GPC_CLUSTERS", "no organism seen", "failed: CORRUPT_IMAGE"."""
    if slide.state == Slide.STATE_FAILED:
        return f"failed: {failure_reason(slide)}"
    if slide.state != Slide.STATE_SUCCEEDED:
        return state_text(slide)
    if slide.call.outcome == Call.OUTCOME_ORGANISMS_SEEN:
        return ", ".join(finding.label for finding in slide.call.findings)
    if slide.call.outcome == Call.OUTCOME_NO_ORGANISM_SEEN:
        return "no organism seen"
    return f"unassessable: {slide.call.unassessable_reason}"


def state_text(slide: Slide) -> str:
    """The state in lower case: "queued", "expired"."""
    return Slide.State.Name(slide.state).removeprefix("STATE_").lower()


def failure_reason(slide: Slide) -> str:
    """The reason of a failed slide, for example CORRUPT_IMAGE."""
    return from_status(slide.error).reason.value


def calls_table(slides: Iterable[Slide]) -> Table:
    """A table of at most MAX_ROWS slides."""
    table = Table("slide", "call", "probability", "tiles", "review", "time", box=None, pad_edge=False)
    for column in (2, 3, 5):
        table.columns[column].justify = "right"
    for slide in slides:
        seen = slide.call.findings
        ran = slide.state == Slide.STATE_SUCCEEDED
        table.add_row(
            slide.slide_id,
            call_text(slide),
            " ".join(f"{finding.probability:.2f}" for finding in seen),
            str(slide.call.tile_count) if ran else "",
            ", ".join(reason.replace("_", " ").lower() for reason in slide.call.review_reasons),
            f"{slide.inference_duration.ToTimedelta().total_seconds() * 1000:.0f} ms" if ran else "",
            style="red" if slide.state == Slide.STATE_FAILED else None,
        )
    return table


def show_calls(console: Console, slides: list[Slide], *, total: int) -> None:
    """Print the table, with a word about the slides that are not in it."""
    console.print(calls_table(slides[:MAX_ROWS]))
    if total > MAX_ROWS:
        console.print(f"... and {total - MAX_ROWS} more; --output FILE.jsonl writes all of them")


def json_line(slide: Slide) -> str:
    """The slide in protobuf's JSON, on one line."""
    return MessageToJson(slide, indent=None) + "\n"


def write_atomically(path: Path, lines: Iterable[str]) -> None:
    """Write all lines or leave what was there."""
    partial = path.with_name(f".{path.name}.part")
    with partial.open("w", encoding="utf-8") as file:
        file.writelines(lines)
    partial.replace(path)
