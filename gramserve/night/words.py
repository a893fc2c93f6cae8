"""Figures and calls as people read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NOTHING = "\u2013"


def number(value: float) -> str:
    """12,345."""
    return f"{value:,.0f}"


def percent(value: float | None) -> str:
    """A share of 0 to 1: 12.3 %."""
    return NOTHING if value is None else f"{value:.1%}".replace("%", "\u00a0%")


def duration(seconds: float | None) -> str:
    """Seconds, in the two largest units that matter: "35 ms", "4.2 s", "12 min", "3 h 05 min"."""
    if seconds is None:
        return NOTHING
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f}\u00a0ms"
    if seconds < 99.5:
        return f"{seconds:.1f}\u00a0s"
    minutes = round(seconds / 60)
    return f"{minutes}\u00a0min" if minutes < 60 else f"{minutes // 60}\u00a0h\u00a0{minutes % 60:02d}\u00a0min"


def words(code: str) -> str:
    """A code of ours in lower case: "LOW_CONFIDENCE" is "low confidence"."""
    return code.replace("_", " ").lower()


def call_words(call: Mapping[str, Any]) -> str:
    """The call of a slide: "GNR 0.98 (few)", "mixed: GNR 0.98, GPR 0.91", "no organism seen", "unassessable: blank"."""
    outcome = call.get("outcome", "")
    if outcome in {"ORGANISMS_SEEN", "MIXED_ORGANISMS_SEEN"}:
        seen = ", ".join(_finding(finding) for finding in call.get("findings", ()))
        return f"mixed: {seen}" if outcome == "MIXED_ORGANISMS_SEEN" else seen
    if outcome == "UNASSESSABLE":
        return f"unassessable: {words(str(call.get('unassessable_reason', '')))}"
    return words(str(outcome))


def suspicions(call: Mapping[str, Any]) -> str:
    """The classes that were seen on too few tiles to be reported: "GNR?, GPR?"; "" for none."""
    return ", ".join(f"{finding['label']}?" for finding in call.get("suspected", ()))


def _finding(finding: Mapping[str, Any]) -> str:
    quantity = f" ({words(str(finding['quantity']))})" if finding.get("quantity") else ""
    return f"{finding['label']} {finding['probability']:.2f}{quantity}"
