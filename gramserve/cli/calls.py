"""Calls of slides as people and programs read them: a table, and JSON Lines."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from google.protobuf.json_format import MessageToJson
from rich.console import Console
from rich.table import Table

from gramserve.cli.speech import word
from gramserve.output_file import check_place, part_of
from gramserve.rpc.status import from_status
from gramserve.v1.slide_pb2 import Call, Finding, Slide

MAX_ROWS = 100


def call_text(slide: Slide) -> str:
    """The call of a slide in a few words: "GNR few", "mixed: GNR many, GPC_CLUSTERS rare", "failed: CORRUPT_IMAGE"."""
    if slide.state == Slide.STATE_FAILED:
        return f"failed: {failure_reason(slide)}"
    if slide.state != Slide.STATE_SUCCEEDED:
        return state_text(slide)
    if slide.call.outcome == Call.OUTCOME_ORGANISMS_SEEN:
        return _findings_text(slide.call.findings)
    if slide.call.outcome == Call.OUTCOME_MIXED_ORGANISMS_SEEN:
        return f"mixed: {_findings_text(slide.call.findings)}"
    if slide.call.outcome == Call.OUTCOME_UNASSESSABLE:
        return f"unassessable: {slide.call.unassessable_reason}"
    return word(Call.Outcome.DESCRIPTOR, slide.call.outcome, "OUTCOME_")


def _findings_text(findings: Iterable[Finding]) -> str:
    return ", ".join(f"{finding.label} {_quantity_text(finding)}".rstrip() for finding in findings)


def _quantity_text(finding: Finding) -> str:
    told = finding.quantity != Finding.QUANTITY_UNSPECIFIED
    return word(Finding.Quantity.DESCRIPTOR, finding.quantity, "QUANTITY_") if told else ""


def review_text(slide: Slide) -> str:
    """Why a person must look, in lower case, with the classes that are suspected: "low confidence (GPR?)"."""
    reasons = ", ".join(reason.replace("_", " ").lower() for reason in slide.call.review_reasons)
    suspected = ", ".join(f"{finding.label}?" for finding in slide.call.suspected_findings)
    return f"{reasons} ({suspected})" if suspected else reasons


def _tiles_text(call: Call) -> str:
    """Tiles that were fit to read, and of how many where that is not all: "12 of 16"."""
    # A gateway of an earlier release does not say how many were fit.
    unfit = call.blank_tile_count + call.unfocused_tile_count + call.misscaled_tile_count
    return f"{call.assessed_tile_count} of {call.tile_count}" if unfit else str(call.tile_count)


def state_text(slide: Slide) -> str:
    """The state in lower case: "queued", "expired"."""
    return word(Slide.State.DESCRIPTOR, slide.state, "STATE_")


def failure_reason(slide: Slide) -> str:
    """The reason of a failed slide, for example CORRUPT_IMAGE."""
    return from_status(slide.error).reason.value


class Rows:
    """Which slides of a batch are shown: all in their order, or those without a call, then those for review."""

    def __init__(self) -> None:
        self._first: list[Slide] = []
        self._ranked: tuple[list[Slide], list[Slide], list[Slide]] = ([], [], [])
        self._count = 0

    def add(self, slide: Slide) -> None:
        """The next slide of the batch; at most MAX_ROWS of each kind are kept."""
        self._count += 1
        lost = slide.state in {Slide.STATE_FAILED, Slide.STATE_EXPIRED, Slide.STATE_CANCELLED}
        rank = 0 if lost else 1 if slide.call.review_reasons else 2
        for kept in (self._first, self._ranked[rank]):
            if len(kept) < MAX_ROWS:
                kept.append(slide)

    def chosen(self) -> list[Slide]:
        """At most MAX_ROWS slides."""
        if self._count <= MAX_ROWS:
            return self._first
        lost, review, rest = self._ranked
        return [*lost, *review, *rest][:MAX_ROWS]


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
            _tiles_text(slide.call) if ran else "",
            review_text(slide),
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


def check_output(path: Path | None) -> None:
    """Raises OSError where `write_atomically` could not write `path`: said before slides run, not afterwards."""
    if path is not None:
        check_place(path)


def write_atomically(path: Path, lines: Iterable[str]) -> None:
    """Write all lines or leave what was there."""
    partial = part_of(path)
    with partial.open("w", encoding="utf-8") as file:
        file.writelines(lines)
    partial.replace(path)
