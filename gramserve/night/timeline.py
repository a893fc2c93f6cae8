"""Slides over the night: how many ended in each stretch of time, and how fast that was."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from gramserve.night.survey import QUARTER_S
from gramserve.store.records import SlideState

MOST_BARS = 144


@dataclass(frozen=True, slots=True)
class Bar:
    """The slides that ended from `start` (Unix seconds) for `width_s` seconds, by state."""

    start: float
    width_s: int
    states: Counter[SlideState]


def bars(ended: Mapping[float, Counter[SlideState]]) -> list[Bar]:
    """Bars without a gap from the first slide to the last: of a quarter of an hour, or as much longer as needed."""
    if not ended:
        return []
    width_s = QUARTER_S
    while (max(ended) - min(ended)) // width_s >= MOST_BARS:
        width_s *= 2
    first = min(ended) // width_s * width_s
    slots = [Counter[SlideState]() for _ in range(int((max(ended) - first) // width_s) + 1)]
    for start, states in ended.items():
        slots[int((start - first) // width_s)].update(states)
    return [Bar(first + number * width_s, width_s, states) for number, states in enumerate(slots)]


def peak_per_hour(ended: Mapping[float, Counter[SlideState]]) -> int:
    """Slides per hour with a call or an error, in the best quarter of an hour."""
    ran = (states[SlideState.SUCCEEDED] + states[SlideState.FAILED] for states in ended.values())
    return max(ran, default=0) * 3600 // QUARTER_S


def percentile(values: array[float], share: float) -> float | None:
    """The smallest value that `share` (0 to 1) of `values` do not exceed; None when there are none."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
