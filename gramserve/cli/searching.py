"""Following an optimization: live on a terminal, in plain lines elsewhere."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing, nullcontext

import typer
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gramserve.cli import connection
from gramserve.cli.speech import side_console
from gramserve.client import TERMINAL_OPTIMIZATION_STATES, OptimizerClient
from gramserve.errors import Unavailable
from gramserve.v1.optimization_pb2 import Optimization, Trial

STAGES = ("ingest", "baseline", "prune", "export", "quantize", "measure", "accept", "calibrate", "package")
ROWS = 8
_WIDE = 110
_STYLES = {Trial.STATE_ACCEPTED: "green", Trial.STATE_REFUSED: "red", Trial.STATE_DROPPED: "dim"}


async def follow(client: OptimizerClient, optimization: Optimization, address: str) -> Optimization:
    """Show the search until it has ended; returns it then. Ctrl-C ends the showing, not the optimization."""
    try:
        return await _follow(client, optimization)
    except (asyncio.CancelledError, Unavailable):
        typer.echo(how_to_come_back(optimization.name, address), err=True)
        raise


def how_to_come_back(name: str, address: str) -> str:
    """Says that the search goes on, and the commands that follow and cancel it, each whole on a line of its own."""
    at = "" if address == connection.OPTIMIZER else f" --optimizer {address}"
    return (
        f"gramserve: {name} goes on in the service; stopped, it goes on from its last finished stage\n"
        f"  follow it:  gramserve optimize --resume {name}{at}\n"
        f"  cancel it:  gramserve optimize --cancel {name}{at}"
    )


async def _follow(client: OptimizerClient, started: Optimization) -> Optimization:
    console = side_console()
    live = console.is_terminal and not console.is_dumb_terminal
    last, board, lines = started, Board(started), Lines(console)
    with Live(board, console=console, refresh_per_second=4) if live else nullcontext():
        async with aclosing(client.watch_optimization(started.name)) as changes:
            async for now in changes:
                last = now
                (board if live else lines).take(now)
    return last


class Lines:
    """Each message of a stage once, each state of a trial once."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._told: set[tuple[str, int]] = set()
        self._message = ("", "")

    def take(self, optimization: Optimization) -> None:
        """Prints what is new."""
        step = optimization.progress
        if step.stage and (step.stage, step.message) != self._message:
            self._message = (step.stage, step.message)
            self._say(f"{step.stage.lower()}: {step.message}")
        for trial in step.trials:
            if (trial.name, trial.state) not in self._told:
                self._told.add((trial.name, trial.state))
                self._say(
                    f"trial: {trial_text(trial)}, {state_text(trial)}" + (f": {trial.note}" if trial.note else "")
                )

    def _say(self, line: str) -> None:
        self._console.print(line, soft_wrap=True)


class Board:
    """What a terminal shows of a search; time goes on between what the service says."""

    def __init__(self, optimization: Optimization, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: set[str] = set()
        self._now, self._since_s = optimization, clock()

    def take(self, optimization: Optimization) -> None:
        """The optimization has changed."""
        self._seen.add(optimization.progress.stage.lower())
        self._now, self._since_s = optimization, self._clock()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        now = self._now
        yield Text(f"{now.name} for {now.model}", style="bold")
        yield self._stages(ascii_only=options.ascii_only)
        yield self._bar()
        yield Text(now.progress.message or "waits for its turn", no_wrap=True, overflow="ellipsis")
        if now.progress.trials:
            yield Text(f"best so far: {best_text(now)}", no_wrap=True, overflow="ellipsis")
            yield _table(now, notes=options.max_width >= _WIDE)

    def _stages(self, *, ascii_only: bool) -> Text:
        done, active, open_ = ("x", ">", "-") if ascii_only else ("✓", "▸", "·")
        current = self._now.progress.stage.lower()
        names = [*STAGES, *sorted(name for name in self._seen if name and name not in STAGES)]
        reached = names.index(current) if current in names else -1
        over = self._now.state == Optimization.STATE_SUCCEEDED
        line = Text()
        for place, name in enumerate(names):
            if name == current and not over:
                line.append(f"{active} {name}  ", style="bold cyan")
            elif over or place < reached or name in self._seen:
                line.append(f"{done} {name}  ", style="green")
            else:
                line.append(f"{open_} {name}  ", style="dim")
        return line

    def _bar(self) -> Table:
        progress = self._now.progress
        grid = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=1.0, completed=progress.fraction, width=30)
        grid.add_row(bar, f"{progress.fraction:.0%}", *self._times())
        return grid

    def _times(self) -> tuple[str, str]:
        progress, budget_s = self._now.progress, seconds(self._now.settings.budget)
        if not progress.stage:
            return "", f"a budget of {budget_s / 60:g} min"
        running = self._now.state == Optimization.STATE_RUNNING
        more_s = self._clock() - self._since_s if running else 0.0
        left_s = seconds(progress.remaining) - more_s
        left = f"{time_text(left_s)} of {budget_s / 60:g} min left" if left_s > 0 else "the budget is used up"
        return f"{time_text(seconds(progress.elapsed) + more_s)} elapsed", left if running else ""


def seconds(duration: object) -> float:
    """A Duration of the contract in seconds."""
    return float(getattr(duration, "seconds", 0)) + float(getattr(duration, "nanos", 0)) / 1e9


def time_text(duration_s: float) -> str:
    """9:59 or 1:00:00."""
    minutes, rest = divmod(int(duration_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def best_text(optimization: Optimization) -> str:
    """The fastest trial that was accepted."""
    accepted = [trial for trial in optimization.progress.trials if trial.state == Trial.STATE_ACCEPTED]
    if not accepted:
        return "nothing accepted yet"
    return trial_text(max(accepted, key=lambda trial: trial.images_per_second))


def trial_text(trial: Trial) -> str:
    """Name and figures in a line; what was not measured is left out."""
    figures = []
    if trial.HasField("images_per_second"):
        figures.append(f"{trial.images_per_second:.0f} images/s")
    if trial.HasField("accuracy"):
        figures.append(f"accuracy {trial.accuracy:.1%}")
    if trial.size_bytes:
        figures.append(f"{trial.size_bytes / 1e6:.2f} MB")
    return f"{trial.name}: {', '.join(figures)}" if figures else trial.name


def state_text(trial: Trial) -> str:
    """The state in a word."""
    known = trial.state in Trial.State.values() and trial.state != Trial.STATE_UNSPECIFIED
    return Trial.State.Name(trial.state).removeprefix("STATE_").lower() if known else "unknown"


def ended(optimization: Optimization) -> bool:
    """True when nothing will change any more."""
    return optimization.state in TERMINAL_OPTIMIZATION_STATES


def _table(optimization: Optimization, *, notes: bool) -> Group:
    trials = optimization.progress.trials
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("trial", no_wrap=True, overflow="ellipsis")
    for name, width in (("images/s", 8), ("accuracy", 8), ("MB", 6)):
        table.add_column(name, justify="right", no_wrap=True, min_width=width)
    table.add_column("state", no_wrap=True, min_width=8)
    if notes:
        table.add_column("", no_wrap=True, overflow="ellipsis", style="dim", ratio=1)
    for trial in trials[-ROWS:]:
        cells: list[str | Text] = [
            trial.name,
            f"{trial.images_per_second:.0f}" if trial.HasField("images_per_second") else "-",
            f"{trial.accuracy:.1%}" if trial.HasField("accuracy") else "-",
            f"{trial.size_bytes / 1e6:.2f}" if trial.size_bytes else "-",
            Text(state_text(trial), style=_STYLES.get(trial.state, "")),
        ]
        table.add_row(*cells, *([trial.note] if notes else []))
    more = len(trials) - ROWS
    return Group(Text(""), table, Text(f"and {more} more before these", style="dim") if more > 0 else Text(""))
