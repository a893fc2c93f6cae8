"""Whose time runs and who is to blame while urgent work is nested in other work."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from inference_svc.running import Running


def test_nothing_is_to_blame_before_work_begins_and_after_it_ended() -> None:
    running = Running()
    assert (running.current, running.due_s) == (None, None)
    running.begin(1, limit_s=10.0, now_s=100.0)
    assert (running.current, running.due_s) == (1, 110.0)
    assert running.end(1, now_s=104.0)
    assert (running.current, running.due_s) == (None, None)


def test_the_time_of_interrupted_work_stands_still() -> None:
    running = Running()
    running.begin(1, limit_s=10.0, now_s=100.0)
    running.begin(2, limit_s=10.0, now_s=104.0)
    assert (running.current, running.due_s) == (2, 114.0)
    assert running.end(2, now_s=113.0)
    assert (running.current, running.due_s) == (1, 119.0)


def test_only_the_work_on_top_can_end() -> None:
    running = Running()
    running.begin(1, limit_s=10.0, now_s=0.0)
    running.begin(2, limit_s=10.0, now_s=1.0)
    assert not running.end(1, now_s=2.0)
    assert running.current == 2
    assert not Running().end(1, now_s=0.0)


@given(st.lists(st.tuples(st.floats(0.0, 5.0), st.floats(0.0, 50.0)), max_size=20), st.floats(0.0, 5.0))
def test_however_often_it_is_interrupted_a_slide_has_its_whole_time(
    turns: list[tuple[float, float]], last_s: float
) -> None:
    running, now_s, own_s = Running(), 0.0, 0.0
    running.begin(0, limit_s=100.0, now_s=now_s)
    for number, (runs_s, nested_s) in enumerate(turns, start=1):
        now_s, own_s = now_s + runs_s, own_s + runs_s
        running.begin(number, limit_s=100.0, now_s=now_s)
        now_s += nested_s
        assert running.end(number, now_s)
    assert running.due_s is not None
    assert abs((running.due_s - now_s) - (100.0 - own_s)) < 1e-6
    running.begin(99, limit_s=1.0, now_s=now_s + last_s)
    assert running.due_s == now_s + last_s + 1.0
