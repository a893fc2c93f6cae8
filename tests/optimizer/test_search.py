"""Which recipes a search tries, in which order, and for how long."""

from __future__ import annotations

import pytest

from optimizer_svc.architecture import build_model
from optimizer_svc.families import family_of
from optimizer_svc.pace import Pace
from optimizer_svc.quantization import RECIPES as ALL
from optimizer_svc.quantization import recipes_for
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


@pytest.mark.parametrize(("architecture", "last"), [("test_resnet", True), ("mobilenetv2_035", False)])
def test_what_fails_on_a_family_is_tried_last(architecture: str, last: bool) -> None:
    family = family_of(build_model(architecture, 3, 96), architecture)
    names = recipes_for(family.transformer, full_bias=family.full_bias)
    full = [ALL[name].bias_correction == "full" for name in names]
    assert sum(full) == 2
    assert full == sorted(full, reverse=not last)
    assert set(names) == set(recipes_for(family.transformer))
