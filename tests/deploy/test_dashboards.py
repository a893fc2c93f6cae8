"""The dashboards are what the code makes, valid, whole, and about series that exist."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import tomllib
from typing import Any

import jsonschema
import pytest
import yaml
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from gramserve.metrics import SPECS
from tests.deploy.promql import OTHERS, boards, named, panels, queries, recorded, rules, shown
from tests.sources import ROOT
from tests.waiting import HANGS_S

GRAFANA = ROOT / "deploy/grafana"
UNITS = {"short", "s", "bytes", "Bps", "reqps", "percentunit"}
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())

PROVISIONED = {
    "datasources/prometheus.yml": {
        "type": "object",
        "additionalProperties": False,
        "required": ["apiVersion", "datasources"],
        "properties": {
            "apiVersion": {"const": 1},
            "datasources": {
                "type": "array",
                "items": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["name", "type", "uid", "url", "access"],
                    "properties": {
                        "name": {"type": "string"},
                        "type": {"const": "prometheus"},
                        "uid": {"type": "string", "pattern": "^[a-zA-Z0-9-]{1,40}$"},
                        "url": {"type": "string", "pattern": "^https?://"},
                        "access": {"enum": ["proxy", "direct"]},
                        "isDefault": {"type": "boolean"},
                        "editable": {"type": "boolean"},
                        "jsonData": {"type": "object"},
                    },
                },
            },
        },
    },
    "dashboards/gramserve.yml": {
        "type": "object",
        "additionalProperties": False,
        "required": ["apiVersion", "providers"],
        "properties": {
            "apiVersion": {"const": 1},
            "providers": {
                "type": "array",
                "items": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["name", "type", "options"],
                    "properties": {
                        "name": {"type": "string"},
                        "orgId": {"type": "integer"},
                        "folder": {"type": "string"},
                        "folderUid": {"type": "string"},
                        "type": {"const": "file"},
                        "disableDeletion": {"type": "boolean"},
                        "allowUiUpdates": {"type": "boolean"},
                        "updateIntervalSeconds": {"type": "integer", "minimum": 10},
                        "options": {
                            "type": "object",
                            "additionalProperties": False,
                            "required": ["path"],
                            "properties": {
                                "path": {"type": "string", "pattern": "^/"},
                                "foldersFromFilesStructure": {"type": "boolean"},
                            },
                        },
                    },
                },
            },
        },
    },
}


def test_the_committed_dashboards_are_those_of_the_code() -> None:
    command = [sys.executable, "deploy/grafana/generate.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=HANGS_S)
    assert done.returncode == 0, done.stderr


def test_there_is_a_dashboard_for_each_question_of_an_operator() -> None:
    assert set(boards()) == {"tonight", "latency", "models", "optimizer", "resources"}


@pytest.mark.parametrize("name", boards())
def test_a_dashboard_holds_nothing_that_Grafana_does_not_know(name: str) -> None:
    board = boards()[name]
    assert unknown(board, as_Grafana_reads(board)) == []
    assert re.fullmatch(r"gramserve-[a-z]+", board["uid"])
    assert board["description"].endswith(".")


def as_Grafana_reads(board: dict[str, Any]) -> Any:
    """The dashboard after Grafana's own types have read it; what they have no place for is gone."""
    plugins.register_default_plugins()
    return json.loads(JSONEncoder().encode(Dashboard.from_json(board)))


def unknown(written: Any, read: Any, path: str = "") -> list[str]:
    """Where something was written that was not read, or read as something else."""
    if isinstance(written, dict) and isinstance(read, dict):
        return [place for key in written for place in unknown(written[key], read.get(key), f"{path}/{key}")]
    if isinstance(written, list) and isinstance(read, list) and len(written) == len(read):
        pairs = enumerate(zip(written, read, strict=True))
        return [place for index, (one, other) in pairs for place in unknown(one, other, f"{path}/{index}")]
    return [] if written == read else [path]


def test_what_Grafana_does_not_know_is_noticed() -> None:
    board = json.loads(json.dumps(boards()["tonight"]))
    defaults = board["panels"][1]["fieldConfig"]["defaults"]
    defaults["unti"] = defaults.pop("unit")
    board["panles"] = []
    assert unknown(board, as_Grafana_reads(board)) == ["/panels/1/fieldConfig/defaults/unti", "/panles"]


@pytest.mark.parametrize("name", boards())
def test_every_panel_says_what_it_shows_in_which_unit_and_when_to_worry(name: str) -> None:
    for panel in panels(boards()[name]):
        defaults = panel["fieldConfig"]["defaults"]
        assert panel["description"].endswith("."), panel["title"]
        assert defaults["unit"] in UNITS, panel["title"]
        steps = defaults["thresholds"]["steps"]
        assert steps[0] == {"value": None, "color": "green"}, panel["title"]
        values = [step["value"] for step in steps[1:]]
        assert values == sorted(values), panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${source}"}, panel["title"]
        assert panel["targets"], panel["title"]


@pytest.mark.parametrize("name", boards())
def test_panels_have_names_and_places_of_their_own(name: str) -> None:
    board = boards()[name]
    titles = [panel["title"] for panel in panels(board)]
    assert len(set(titles)) == len(titles)
    numbers = [panel["id"] for panel in board["panels"]]
    assert len(set(numbers)) == len(numbers)
    places = [panel["gridPos"] for panel in board["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for one, other in itertools.combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)


def test_queries_name_only_series_that_there_are() -> None:
    known = shown() | recorded() | OTHERS
    for query in queries():
        assert named(query.expr), query
        assert named(query.expr) <= known, (query, named(query.expr) - known)
    for rule in rules():
        assert named(rule["expr"]) - known == set(), rule


def test_a_name_that_there_is_not_is_noticed() -> None:
    expr = 'sum by (job) (rate(gramserve_tilse_total{job="worker"}[5m])) / on (job) group_left () (up and on () x > 0)'
    assert named(expr) == {"gramserve_tilse_total", "up", "x"}
    assert named('increase({__name__=~"a_total|b_total", state="FAILED"}[1h])') == {"a_total", "b_total"}


def test_every_metric_is_on_a_dashboard_or_in_a_rule() -> None:
    looked_at = set().union(*(named(query.expr) for query in queries()), *(named(rule["expr"]) for rule in rules()))
    unseen = [
        spec.name
        for spec in SPECS
        if not any(re.fullmatch(rf"gramserve_{spec.name}(_total|_bucket|_sum|_count)?", name) for name in looked_at)
    ]
    assert unseen == []


@pytest.mark.parametrize("name", PROVISIONED)
def test_what_Grafana_is_provisioned_with_is_well_formed(name: str) -> None:
    jsonschema.validate(yaml.safe_load((GRAFANA / "provisioning" / name).read_text()), PROVISIONED[name])


def test_Grafana_finds_what_it_is_provisioned_with() -> None:
    service = COMPOSE["services"]["grafana"]
    mounted = dict(volume.split(":")[:2][::-1] for volume in service["volumes"])
    assert mounted["/etc/grafana/provisioning"] == "./deploy/grafana/provisioning"
    provider = yaml.safe_load((GRAFANA / "provisioning/dashboards/gramserve.yml").read_text())["providers"][0]
    assert mounted[provider["options"]["path"]] == "./deploy/grafana/dashboards"
    source = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"][0]
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in COMPOSE["services"]


def test_Grafana_is_the_one_that_the_dashboards_are_made_for_and_calls_nobody() -> None:
    dev = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["dev"]
    made_for = next(line for line in dev if line.startswith("grafana-foundation-sdk")).rpartition("!")[2]
    assert COMPOSE["services"]["grafana"]["image"] == f"grafana/grafana:{made_for}"
    environment = COMPOSE["services"]["grafana"]["environment"]
    for name in ("ANALYTICS_REPORTING_ENABLED", "ANALYTICS_CHECK_FOR_UPDATES", "ANALYTICS_CHECK_FOR_PLUGIN_UPDATES"):
        assert environment[f"GF_{name}"] == "false"
    assert environment["GF_SECURITY_ADMIN_PASSWORD__FILE"].startswith("/keys/")
