"""Watching a batch with a progress bar, and showing what came of it."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from gramserve.cli.calls import Rows, json_line, show_calls, write_atomically
from gramserve.cli.speech import side_console, word
from gramserve.client import TERMINAL_SLIDE_STATES, GramserveClient
from gramserve.v1.slide_batch_pb2 import SlideBatch
from gramserve.v1.slide_pb2 import Slide


async def follow(client: GramserveClient, name: str) -> SlideBatch:
    """Show a progress bar until the batch is terminal; returns it then. Ctrl-C ends the showing, not the batch."""
    try:
        return await _follow(client, await client.get_batch(name))
    except asyncio.CancelledError:
        typer.echo(f"gramserve: the batch goes on; `gramserve watch {name}` follows it again", err=True)
        raise


async def _follow(client: GramserveClient, batch: SlideBatch) -> SlideBatch:
    done: set[int] = set()
    failed: set[int] = set()
    with progress_bar() as progress:
        task = progress.add_task("slides", total=batch.completion_stats.total_count, failed="")
        async with aclosing(client.watch_batch(batch.name)) as events:
            async for event in events:
                if event.WhichOneof("event") != "slide":
                    continue
                slide = event.slide
                (done.add if slide.state in TERMINAL_SLIDE_STATES else done.discard)(slide.index)
                (failed.add if slide.state == Slide.STATE_FAILED else failed.discard)(slide.index)
                progress.update(task, completed=len(done), failed=f"{len(failed)} failed" if failed else "")
    return await client.get_batch(batch.name)


def progress_bar() -> Progress:
    """A bar with counts and the time left; nothing where nobody watches."""
    console = side_console()
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("[red]{task.fields[failed]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )


async def show_results(client: GramserveClient, batch: SlideBatch, console: Console, output: Path | None) -> None:
    """Print the table of calls and the counts; write every slide to `output`, one JSON object a line."""
    rows = Rows()
    lines: list[str] = []
    async for slide in client.results(batch.name):
        rows.add(slide)
        if output is not None:
            lines.append(json_line(slide))
    show_calls(console, rows.chosen(), total=batch.completion_stats.total_count)
    console.print(counts_text(batch))
    if output is not None:
        write_atomically(output, lines)
        console.print(f"written: {output}")


def counts_text(batch: SlideBatch) -> str:
    """State and counts of a batch in one line."""
    stats = batch.completion_stats
    counts = {
        "queued": stats.queued_count,
        "running": stats.running_count,
        "succeeded": stats.succeeded_count,
        "failed": stats.failed_count,
        "cancelled": stats.cancelled_count,
        "expired": stats.expired_count,
        "for review": stats.review_count,
    }
    shown = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    slides = "1 slide" if stats.total_count == 1 else f"{stats.total_count} slides"
    return f"{batch.name}: {batch_state_text(batch)}, {slides}: {shown}"


def batch_state_text(batch: SlideBatch) -> str:
    """The state in words: "partially succeeded"."""
    return word(SlideBatch.State.DESCRIPTOR, batch.state, "STATE_")
