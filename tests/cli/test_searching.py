"""What a person sees while an optimization goes on."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from gramserve.cli.searching import ROWS, STAGES, Board, Lines, best_text, how_to_come_back, time_text, trial_text
from gramserve.v1.optimization_pb2 import Optimization, Trial
from optimizer_svc.spec import Stage


def _optimization(*trials: Trial, stage: str = "measure", message: str = "Measuring") -> Optimization:
    optimization = Optimization(name="optimizations/opt-1", model="models/gram", state=Optimization.STATE_RUNNING)
    optimization.settings.budget.FromSeconds(1200)
    optimization.progress.stage, optimization.progress.message = stage, message
    optimization.progress.fraction = 0.5
    optimization.progress.elapsed.FromSeconds(600)
    optimization.progress.remaining.FromSeconds(600)
    optimization.progress.trials.extend(trials)
    return optimization


def _trial(name: str, state: Trial.State, images_per_second: float = 100.0, note: str = "") -> Trial:
    return Trial(
        name=name, state=state, images_per_second=images_per_second, accuracy=0.975, size_bytes=410_000, note=note
    )


def _shown(board: Board, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False, color_system=None)
    with console.capture() as capture:
        console.print(board)
    return capture.get()


def test_the_stages_are_those_of_the_optimizer() -> None:
    assert tuple(stage.value.lower() for stage in Stage) == STAGES


def test_a_board_shows_where_the_search_is_what_is_left_and_what_is_best() -> None:
    now = [0.0]
    board = Board(_optimization(), lambda: now[0])
    board.take(
        _optimization(
            _trial("original int8", Trial.STATE_ACCEPTED, 300.0),
            _trial("pruned 50% int8", Trial.STATE_ACCEPTED, 812.0),
            _trial("pruned 25% int8", Trial.STATE_REFUSED, 900.0, "It misses an organism."),
        )
    )
    now[0] = 90.0  # nothing was heard since, and the time goes on
    shown = _shown(board)
    for part in (
        "✓ quantize  ▸ measure  · accept",
        "50%",
        "11:30 elapsed",
        "8:30 of 20 min left",
        "best so far: pruned 50% int8: 812 images/s, accuracy 97.5%, 0.41 MB",
        "It misses an organism.",
        "refused",
    ):
        assert part in shown


def test_a_board_shows_the_last_trials_and_says_that_there_are_more() -> None:
    trials = [_trial(f"trial-{number}.", Trial.STATE_DROPPED) for number in range(ROWS + 2)]
    shown = _shown(Board(_optimization(*trials)))
    assert "trial-1." not in shown
    assert f"trial-{ROWS + 1}." in shown
    assert "and 2 more before these" in shown


def test_a_board_says_when_the_budget_is_used_up_and_what_waits() -> None:
    now = [0.0]
    board = Board(_optimization(), lambda: now[0])
    now[0] = 601.0
    assert "the budget is used up" in _shown(board)
    waiting = _shown(Board(Optimization(name="optimizations/opt-1", state=Optimization.STATE_QUEUED)))
    assert "waits for its turn" in waiting


@pytest.mark.parametrize("width", [30, 60, 80])
def test_a_board_fits_a_narrow_terminal(width: int) -> None:
    shown = _shown(Board(_optimization(_trial("a long name of a trial " * 4, Trial.STATE_TRIED))), width)
    assert max(len(line) for line in shown.splitlines()) <= width


def test_lines_say_every_message_and_every_state_of_a_trial_once() -> None:
    out = io.StringIO()
    lines = Lines(Console(file=out, width=40))
    dropped = _trial("original int8", Trial.STATE_DROPPED, note="It is too slow.")
    for optimization in (
        _optimization(dropped),
        _optimization(dropped, _trial("pruned int8", Trial.STATE_TRIED)),
        _optimization(dropped, _trial("pruned int8", Trial.STATE_ACCEPTED), stage="accept", message="Comparing"),
        _optimization(dropped, _trial("pruned int8", Trial.STATE_ACCEPTED), stage="accept", message="Comparing"),
    ):
        lines.take(optimization)
    figures = "100 images/s, accuracy 97.5%, 0.41 MB"
    assert out.getvalue().splitlines() == [
        "measure: Measuring",
        f"trial: original int8: {figures}, dropped: It is too slow.",
        f"trial: pruned int8: {figures}, tried",
        "accept: Comparing",
        f"trial: pruned int8: {figures}, accepted",
    ]


def test_what_was_not_measured_is_left_out() -> None:
    assert trial_text(Trial(name="original int8")) == "original int8"
    assert best_text(_optimization()) == "nothing accepted yet"


def test_times_are_read_like_a_clock() -> None:
    assert [time_text(s) for s in (0, 59.9, 600, 3661)] == ["0:00", "0:59", "10:00", "1:01:01"]


def test_the_commands_to_come_back_name_the_optimizer_unless_it_is_the_usual_one() -> None:
    assert "--optimizer" not in how_to_come_back("optimizations/opt-1", "127.0.0.1:50053")
    said = how_to_come_back("optimizations/opt-1", "lab:1").splitlines()
    assert said[1].endswith("gramserve optimize --resume optimizations/opt-1 --optimizer lab:1")
    assert said[2].endswith("gramserve optimize --cancel optimizations/opt-1 --optimizer lab:1")
