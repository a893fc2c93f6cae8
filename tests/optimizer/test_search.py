"""How many recipes a search tries."""

from __future__ import annotations

import pytest

from optimizer_svc.pace import Pace
from optimizer_svc.search import tried_in_time

RECIPES = ("breaks", "breaks too", "first", "second", "third")


@pytest.mark.parametrize(
    ("seconds_each", "tried"),
    [
        (1, 5),  # all, well within 75 of 100 seconds
        (26, 3),  # at 78 s, of which 75 are for recipes, one works
        (40, 3),  # at 80 s none has worked, and 88 s are not over
        (90, 1),  # not even then
    ],
)
def test_a_search_goes_on_a_little_longer_while_no_recipe_has_worked(seconds_each: float, tried: int) -> None:
    now = [0.0]

    def works(recipe: str) -> bool:
        now[0] += seconds_each
        return not recipe.startswith("breaks")

    pace = Pace(lambda _progress: None, lambda: now[0], lambda: False, budget_minutes=100 / 60)
    assert tried_in_time(RECIPES, works, pace) == list(RECIPES[:tried])
