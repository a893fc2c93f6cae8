"""The dashboards and alerts on a real night: a real stack, a real Prometheus, and every query answered with data."""

from __future__ import annotations

import json
import os
import re
import time
from functools import partial
from pathlib import Path

import pytest
import yaml

from gramserve.metrics import SPECS
from tests.deploy.night import Night, night
from tests.deploy.prometheus import as_grafana_asks
from tests.deploy.promql import boards, named, queries, recorded, rules, selectors
from tests.sources import ROOT
from tests.waiting import until

SEEN = ROOT / "benchmarks/results/dashboards.json"
# What a night of a minute cannot have.
NEVER_SEEN = {"gramserve:memory_slope:bytes_per_hour"}  # of processes that have run for six hours
FIRE = {"GramserveWatchdog", "GramserveSlideQuarantined", "GramserveSlidesExpire", "GramserveOptimizationFailed"}

# Status codes that no call ended with.
CODES = re.compile(r'code="RESOURCE_EXHAUSTED"|code=~"INTERNAL\|UNKNOWN\|DATA_LOSS"')
# What is true of that night as well, some of it not for long enough yet: one slide in seven is broken, one kills its
# child again and again, nobody takes what waits at its end; kernels and disks of machines differ.
ALSO_TRUE = {
    "GramserveChildrenRestart",
    "GramserveFailureRate",
    "GramserveNightWillNotFinish",
    "GramserveSandboxMissing",
    "GramserveStoreFillsTonight",
    "GramserveStoreNearlyFull",
}


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_every_query_of_every_panel_and_alert_finds_what_it_asks_for(tmp_path: Path) -> None:
    async with night(tmp_path / "night") as stack:
        await stack.passes()
        found = await _every_panel_shows_data(stack)
        await _every_rule_is_well(stack)
        found |= await _every_rule_looks_at_series_that_are_there(stack)
        await _what_went_wrong_is_told(stack)
        await _variables_and_marks_find_something(stack)
        await _workers_can_follow_the_queue(stack)
    if os.environ.get("GRAMSERVE_TEST_DASHBOARDS") == "write":  # the figures of docs/dashboards.md
        SEEN.write_text(json.dumps(found, indent=1) + "\n")


async def _workers_can_follow_the_queue(stack: Night) -> None:
    """Each query of KEDA's is one number."""
    scaled = yaml.safe_load((ROOT / "deploy/kubernetes/components/keda/scaling.yaml").read_text())
    for trigger in scaled["spec"]["triggers"]:
        assert len(await stack.prometheus.instant(trigger["metadata"]["query"])) == 1, trigger["name"]


async def _every_panel_shows_data(stack: Night) -> dict[str, int]:
    """How many series each query, asked as Grafana asks, returns once Prometheus has seen enough: never none."""
    found: dict[str, int] = {}

    async def all_answered() -> bool:
        for query in queries():
            key = f"{query.board}/{query.panel}/{query.ref}"
            expr = as_grafana_asks(query.expr)
            if found.get(key):
                continue
            if query.kind == "instant":
                found[key] = len(await stack.prometheus.instant(expr))
            else:
                found[key] = len(await stack.prometheus.range(expr, stack.since, time.time()))
        return not _silent(found)

    try:
        await until(all_answered, 120, "every panel shows data")
    except AssertionError:
        raise AssertionError(f"panels without data: {_silent(found)}") from None
    return found


def _silent(found: dict[str, int]) -> list[str]:
    """Queries that returned nothing and should have; those that cannot must not have returned anything."""
    silent = []
    for query in queries():
        key = f"{query.board}/{query.panel}/{query.ref}"
        if named(query.expr) & NEVER_SEEN:
            assert not found[key], f"{key} shows data after all: take it from NEVER_SEEN"
        elif not found[key]:
            silent.append(key)
    return silent


async def _every_rule_is_well(stack: Night) -> None:
    evaluated = await stack.prometheus.rules()
    assert len(evaluated) == len(rules())
    assert [(rule["name"], rule.get("lastError")) for rule in evaluated if rule["health"] != "ok"] == []


async def _every_rule_looks_at_series_that_are_there(stack: Night) -> dict[str, int]:
    """The series that each alert looks at, by their number."""
    names = await stack.prometheus.names()
    found = {}
    for rule in rules():
        missing = named(rule["expr"]) - names - NEVER_SEEN
        assert missing == set(), rule
        series = 0
        for selector in selectors(rule["expr"]):
            selected = len(await stack.prometheus.instant(selector))
            assert selected or CODES.search(selector) or named(selector) & NEVER_SEEN, selector
            series += selected
        if "alert" in rule:
            found[f"alerts/{rule['alert']}/{rule['labels']['severity']}"] = series
    assert recorded() - names == NEVER_SEEN
    assert [spec.name for spec in SPECS if not any(name.startswith(f"gramserve_{spec.name}") for name in names)] == []
    return found


async def _what_went_wrong_is_told(stack: Night) -> None:
    async def told() -> bool:
        return set(await stack.prometheus.alerts("firing")) >= FIRE

    await until(told, 30, f"{FIRE} fire")
    true = await stack.prometheus.alerts("firing", "pending")
    assert set(true) - FIRE <= ALSO_TRUE
    for annotations_of in true.values():
        assert "<error" not in annotations_of["description"]
        assert "<no value>" not in annotations_of["description"]
    said = true["GramserveSlidesExpire"]["description"]
    assert re.match(r"\d(\.\d+)? slides passed their due time", said), said


async def _variables_and_marks_find_something(stack: Night) -> None:
    for board in boards().values():
        for variable in board["templating"]["list"]:
            if variable["type"] != "query":
                continue
            asked = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"])
            assert asked, variable
            assert await stack.prometheus.label_values(asked[1], asked[2]) == {"gram"}
        for mark in board["annotations"]["list"]:
            await until(partial(_is_marked, stack, mark["expr"]), 30, board["title"])


async def _is_marked(stack: Night, expr: str) -> bool:
    """Whether a query returned anything in the night; an alert fires a moment before its series says so."""
    return bool(await stack.prometheus.range(expr, stack.since, time.time()))
