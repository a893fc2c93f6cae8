"""The dashboards, the rules, and what their queries name."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from gramserve.metrics import SPECS
from tests.sources import ROOT

DASHBOARDS = ROOT / "deploy/grafana/dashboards"
RULES = ROOT / "deploy/prometheus/rules"
OTHERS = {
    "ALERTS",
    "up",
    "process_cpu_seconds_total",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
}
WORDS = {"and", "or", "unless", "on", "ignoring", "group_left", "group_right", "by", "without", "bool", "offset"}


@dataclass(frozen=True, slots=True)
class Query:
    """One query of one panel; `kind` is instant or range."""

    board: str
    panel: str
    ref: str
    kind: str
    expr: str


@functools.cache
def boards() -> dict[str, dict[str, Any]]:
    """The committed dashboards, by name."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(DASHBOARDS.glob("*.json"))}


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    """What a dashboard shows, its headings left out."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def queries() -> Iterator[Query]:
    """Every query of every panel."""
    for name, board in boards().items():
        for panel in panels(board):
            for target in panel["targets"]:
                kind = "instant" if target.get("instant") else "range"
                yield Query(name, panel["title"], target["refId"], kind, target["expr"])


@functools.cache
def rules() -> tuple[dict[str, Any], ...]:
    """Every recording and alerting rule."""
    found = []
    for path in sorted(RULES.glob("*.yml")):
        for group in yaml.safe_load(path.read_text())["groups"]:
            found += group["rules"]
    return tuple(found)


def alerts() -> list[dict[str, Any]]:
    """The alerting rules."""
    return [rule for rule in rules() if "alert" in rule]


def recorded() -> set[str]:
    """Names of what the recording rules record."""
    return {rule["record"] for rule in rules() if "record" in rule}


def shown() -> set[str]:
    """Names of all series that the services show."""
    names = set()
    for spec in SPECS:
        suffixes = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}[spec.kind]
        names |= {f"gramserve_{spec.name}{suffix}" for suffix in suffixes}
    return names


def selectors(expr: str) -> set[str]:
    """What a query selects: names of series, each with its labels where it has some."""
    labelled = set(re.findall(r"[a-zA-Z_:][\w:]*\{[^}]+\}", expr))
    return labelled | (named(expr) - {selector.partition("{")[0] for selector in labelled})


def named(expr: str) -> set[str]:
    """The metrics and recorded series that a query names."""
    names = set()
    for group in re.findall(r'__name__=~"([^"]*)"', expr):
        names |= set(group.split("|"))
    bare = re.sub(r'"[^"]*"', "", expr)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", " ", bare)
    bare = re.sub(r"\b(by|without|on|ignoring|group_left|group_right) *\([^)]*\)", " ", bare)
    for word in re.finditer(r"[A-Za-z_][\w:]*(?! *\()\b", bare):
        if word[0] not in WORDS and not re.match(r" *\(", bare[word.end() :]):
            names.add(word[0])
    return names
