"""The settings of an optimization: checked from their message into its record, and back."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from gramserve.v1.optimization_pb2 import Optimization
from optimizer_svc.names import Violations
from optimizer_svc.records import OptimizationRecord
from optimizer_svc.spec import INPUT_PX, OptimizationSpec

MAX_SEED = 2**32 - 1
MOST_TILES = 1_000_000
MAX_SPECIMEN_TYPE = 63  # as for the specimen type of a slide that is submitted
_MAX_NAMES = 100
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.+-]{0,99}")
_DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(OptimizationSpec)}
_IMPORTANCES = {
    Optimization.IMPORTANCE_UNSPECIFIED: _DEFAULTS["importance"],
    Optimization.IMPORTANCE_TAYLOR: "taylor",
    Optimization.IMPORTANCE_MAGNITUDE: "magnitude",
}
_SCOPES = {
    Optimization.SCOPE_UNSPECIFIED: _DEFAULTS["scope"],
    Optimization.SCOPE_UNIFORM: "uniform",
    Optimization.SCOPE_ISOMORPHIC: "isomorphic",
}


def read_settings(
    settings: Optimization.Settings, violations: Violations, *, max_budget_minutes: float
) -> dict[str, Any]:
    """The fields of an OptimizationRecord that `settings` decide, defaults filled in; what is wrong is appended.

    Names of recipes and engines are checked for their form: only the job knows what suits and is installed.
    """
    checked = _Checked(violations)
    return {
        "budget_minutes": checked.minutes(settings, max_budget_minutes),
        "margin": checked.share("margin", settings.margin) or _DEFAULTS["margin"],
        "recall_margin": checked.share("recall_margin", settings.recall_margin) or _DEFAULTS["recall_margin"],
        "allow_unproved": settings.allow_unproved,
        "promote": settings.promote,
        "keep_macs": checked.share("keep_macs", settings.keep_macs),
        "importance": checked.choice("importance", settings.importance, _IMPORTANCES),
        "scope": checked.choice("scope", settings.scope, _SCOPES),
        "recipes": checked.names("recipes", settings.recipes),
        "engines": checked.names("engines", settings.engines),
        "review_risk": checked.risk(settings.review_risk) or _DEFAULTS["review_risk"],
        "min_assessed_tiles": checked.whole("min_assessed_tiles", settings.min_assessed_tiles, range(MOST_TILES + 1))
        or _DEFAULTS["min_assessed_tiles"],
        "mixed_usual_in": checked.specimen_types("mixed_usual_in", settings.mixed_usual_in),
        "quantization_aware": not settings.without_quantization_aware,
        "mean": checked.channels("mean", settings.mean, above=-math.inf),
        "std": checked.channels("std", settings.std, above=0.0),
        "seed": checked.whole("seed", settings.seed, range(MAX_SEED + 1)),
        "input_px": settings.input_px and checked.whole("input_px", settings.input_px, INPUT_PX),
    }


def show_settings(record: OptimizationRecord) -> Optimization.Settings:
    """The settings of `record` as a message."""
    settings = Optimization.Settings(
        margin=record.margin,
        allow_unproved=record.allow_unproved,
        promote=record.promote,
        keep_macs=record.keep_macs,
        seed=record.seed,
        input_px=record.input_px,
        recall_margin=record.recall_margin,
        importance=_message_value(record.importance, _IMPORTANCES),
        scope=_message_value(record.scope, _SCOPES),
        recipes=record.recipes,
        engines=record.engines,
        review_risk=record.review_risk,
        mean=record.mean,
        std=record.std,
        without_quantization_aware=not record.quantization_aware,
        min_assessed_tiles=record.min_assessed_tiles,
        mixed_usual_in=record.mixed_usual_in,
    )
    settings.budget.FromMicroseconds(round(record.budget_minutes * 60e6))
    return settings


def _message_value(word: str, words: dict[Any, str]) -> Any:
    """The last value that means `word`: the explicit one; unspecified for a word of another release."""
    return next((value for value, meant in reversed(words.items()) if meant == word), 0)


class _Checked:
    """Values as they are; of a wrong one its field and rule go to `violations`."""

    def __init__(self, violations: Violations) -> None:
        self._violations = violations

    def minutes(self, settings: Optimization.Settings, most: float) -> float:
        minutes = (settings.budget.seconds + settings.budget.nanos / 1e9) / 60
        self._hold("budget", f"must be at most {most:g} minutes, and not negative", 0 <= minutes <= most)
        return minutes or float(_DEFAULTS["budget_minutes"])

    def share(self, field: str, value: float) -> float:
        self._hold(field, "must be 0 to 1", 0 <= value <= 1)
        return value

    def risk(self, value: float) -> float:
        self._hold("review_risk", "must be 0 to below 1", 0 <= value < 1)
        return value

    def whole(self, field: str, value: int, allowed: range) -> int:
        self._hold(field, f"must be {allowed[0]} to {allowed[-1]}", value in allowed)
        return value

    def choice(self, field: str, value: Any, words: dict[Any, str]) -> str:
        self._hold(field, "must be a value that this release knows", value in words)
        return words.get(value, "")

    def specimen_types(self, field: str, values: Sequence[str]) -> tuple[str, ...]:
        sound = all(0 < len(value) <= MAX_SPECIMEN_TYPE and value.isprintable() for value in values)
        rule = f"must be specimen types of 1 to {MAX_SPECIMEN_TYPE} printable characters, at most {_MAX_NAMES}"
        self._hold(field, rule, sound and len(values) <= _MAX_NAMES)
        return tuple(values)

    def names(self, field: str, values: Sequence[str]) -> tuple[str, ...]:
        plain = all(_NAME.fullmatch(value) for value in values)
        self._hold(
            field,
            f"must be at most {_MAX_NAMES} different names of 1 to 100 letters, digits, spaces and _ . + -",
            plain and len(values) <= _MAX_NAMES and len(set(values)) == len(values),
        )
        return tuple(values)

    def channels(self, field: str, values: Sequence[float], *, above: float) -> tuple[float, ...]:
        fine = len(values) in {0, 3} and all(math.isfinite(value) and value > above for value in values)
        self._hold(field, "must be three finite numbers" + (" above 0" if above == 0 else "") + ", or none", fine)
        return tuple(values)

    def _hold(self, field: str, rule: str, holds: bool) -> None:
        if not holds:
            self._violations.append((f"optimization.settings.{field}", rule))
