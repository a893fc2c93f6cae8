"""The night as one HTML page: no script, nothing loaded from elsewhere, readable on paper and on a phone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, TypeAlias

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from gramserve.night import words
from gramserve.night.earlier import NightRow
from gramserve.night.facts import ENDS, BatchFacts, NightFacts, Review
from gramserve.night.timeline import Bar, bars, peak_per_hour, percentile
from gramserve.store.records import Priority

Shown: TypeAlias = Mapping[tuple[str, str, int], list[str | None]]
"""Data URIs of the evidence of slides, by laboratory, batch and index."""

MOST_BATCHES = 20
_LEAST_BARS = 16
_LABELLED = 0.88  # further right an hour would not fit in at the width of a phone
SHARES = (0.5, 0.95, 0.99)


def render(facts: NightFacts, before: Sequence[NightRow], pictures: Shown) -> str:
    """The page of `facts`; `before` are earlier nights, newest first.

    A slide that is not in `pictures` is listed without.
    """
    reviews = [review for priority in reversed(Priority) for review in facts.reviews[priority]]
    shown = {
        "f": facts,
        "ends": ENDS,
        "chart": _chart(facts),
        "latency": _latency(facts),
        "per_hour": peak_per_hour(facts.ended),
        "failures": sorted(facts.failures.values(), key=lambda failed: -failed.count),
        "reviews": [_review(review, pictures) for review in reviews],
        "pictured": len(pictures),
        "models": sorted(facts.models.values(), key=lambda use: -use.slides),
        "batches": sorted(facts.batches, key=_interest)[:MOST_BATCHES],
        "rows": [NightRow.of(facts), *before],
        "finished": NightRow.of(facts).finished,
    }
    return _environment(facts).get_template("night.html.j2").render(**shown)


def _interest(batch: BatchFacts) -> tuple[bool, bool, int, float]:
    """What an operator wants to see first: open, late, failed; then the newest."""
    lost = batch.accepted - batch.states[ENDS[0]]
    return (not batch.open, not batch.late, -lost, -batch.create_time)


def _chart(facts: NightFacts) -> dict[str, Any]:
    """Bars in percent of the highest one, and what stands at both axes."""
    found = bars(facts.ended)
    while found and len(found) < _LEAST_BARS:  # a few slides are no night of wide bars
        found.append(Bar(found[-1].start + found[-1].width_s, found[-1].width_s, Counter()))
    most = max((bar.states.total() for bar in found), default=0)
    top = _round_up(most)
    shown = [
        {
            "parts": [(state.value, 100 * bar.states[state] / top) for state in ENDS if bar.states[state]],
            "title": _title(facts, bar.start, bar.start + bar.width_s, bar.states),
        }
        for bar in found
    ]
    hours = [
        (100 * number / len(found), f"{at:%H:%M}")
        for number, bar in enumerate(found)
        if (at := facts.night.local(bar.start)).minute == 0 and number < _LABELLED * len(found)
    ]
    step = max(1, math.ceil(len(hours) / 6))
    minutes = found[0].width_s // 60 if found else 15
    return {"bars": shown, "top": top, "hours": hours[::step], "minutes": minutes}


def _title(facts: NightFacts, start: float, end: float, states: Any) -> str:
    counts = ", ".join(f"{states[state]:,} {state.value.lower()}" for state in ENDS if states[state]) or "none"
    return f"{facts.night.local(start):%H:%M} to {facts.night.local(end):%H:%M}: {counts}"


def _round_up(most: int) -> int:
    """The next of 1, 2, 5, 10, 20, 50, ..."""
    power = int("1" + "0" * (len(str(most)) - 1))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= most)


def _latency(facts: NightFacts) -> list[dict[str, Any]]:
    """A row for each priority and stretch that has slides."""
    return [
        {
            "priority": priority.value,
            "what": what,
            "count": len(values),
            "values": [percentile(values, share) for share in SHARES],
        }
        for priority in reversed(Priority)
        for what, values in (("wait", facts.times[priority].wait), ("run", facts.times[priority].run))
        if values
    ]


def _review(review: Review, pictures: Shown) -> dict[str, Any]:
    place = review.place
    return {
        "place": place,
        "stat": review.priority is Priority.STAT,
        "call": words.call_words(review.call),
        "suspected": words.suspicions(review.call),
        "reasons": [words.words(reason) for reason in review.call.get("review_reasons", ())],
        "tiles": pictures.get((place.laboratory, place.batch, place.index)),
    }


def _environment(facts: NightFacts) -> Environment:
    environment = Environment(
        loader=PackageLoader("gramserve.night"),
        autoescape=select_autoescape(enabled_extensions=("html.j2",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

    def clock(at: float | None) -> str:
        return words.NOTHING if at is None else f"{facts.night.local(at):%H:%M}"

    def moment(at: float) -> str:
        return f"{facts.night.local(at):%Y-%m-%d %H:%M %Z}"

    def day(night: Any) -> str:
        return f"{datetime.combine(night.day, datetime.min.time()):%a %d %b}"

    environment.filters.update(
        number=words.number, percent=words.percent, duration=words.duration, words=words.words, clock=clock,
        moment=moment, day=day,
    )  # fmt: skip
    return environment
