"""Every alert fires when it should and not before, and has a page that says what to do."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from gramserve.cli import app
from tests.deploy.promql import RULES, alerts, boards, named, panels, queries, recorded, rules, shown
from tests.sources import ROOT

PROMETHEUS = ROOT / "deploy/prometheus"
TESTS = sorted((PROMETHEUS / "tests").glob("*.yml"))
RUNBOOKS = ROOT / "docs/runbooks"
SEVERITIES = {"critical", "warning", "info", "none"}
NAMES = sorted({rule["alert"] for rule in alerts()})


def promtool(*words: str) -> None:
    """Runs promtool, or skips the test where there is none."""
    if shutil.which("promtool") is None:
        pytest.skip("there is no promtool here; on Debian: apt install prometheus")
    done = subprocess.run(["promtool", *words], capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_the_rules() -> None:
    promtool("check", "rules", *map(str, sorted(RULES.glob("*.yml"))))


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_alerts_fire_when_they_should_and_not_before(path: Path) -> None:
    promtool("test", "rules", str(path))


def test_a_rule_that_is_wrong_fails_its_test(tmp_path: Path) -> None:
    text = (RULES / "alerts.yml").read_text()
    assert "gramserve:slides_failed:share30m > 0.2" in text
    (tmp_path / "rules").mkdir()
    (tmp_path / "tests").mkdir()
    (tmp_path / "rules/alerts.yml").write_text(text.replace("share30m > 0.2", "share30m > 0.9"))
    shutil.copy(RULES / "recording.yml", tmp_path / "rules")
    shutil.copy(PROMETHEUS / "tests/outcomes.yml", tmp_path / "tests")
    with pytest.raises(AssertionError, match="GramserveFailureRate"):
        promtool("test", "rules", str(tmp_path / "tests/outcomes.yml"))


@pytest.mark.parametrize("name", NAMES)
def test_every_alert_is_seen_firing_and_quiet(name: str) -> None:
    if name == "GramserveWatchdog":  # it always fires, and every other test leaves it out by name
        return
    expected = [
        [sample["labels"] for sample in look["exp_samples"]]
        for test in _tests(name)
        for look in test["promql_expr_test"]
    ]
    assert any(f'alertname="{name}"' in labels for found in expected for labels in found)
    assert any(not any(f'alertname="{name}"' in labels for labels in found) for found in expected)


@pytest.mark.parametrize(
    ("panel", "series"),
    [
        (
            "Files refused",
            {
                'gramserve_certificate_refused{job="gateway"}': "0x90",
                'gramserve_access_file_unusable{job="gateway"}': "1x90",
                'gramserve_trusted_keys_unusable{job="gateway"}': "0x90",
            },
        ),
        (
            "Succeeded",
            {
                'gramserve_slides_finished_total{state="SUCCEEDED", job="worker"}': "0x90",
                'gramserve_slides_ended_total{state="SUCCEEDED", job="gateway"}': "0+1x90",
            },
        ),
    ],
)
def test_a_panel_over_two_metrics_counts_both(panel: str, series: dict[str, str], tmp_path: Path) -> None:
    [query] = [query for query in queries() if query.panel == panel]
    look = {
        "eval_time": "60m",
        "expr": query.expr.replace("$__range", "1h"),
        "exp_samples": [{"labels": "{}", "value": 60 if panel == "Succeeded" else 1}],
    }
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [look],
    }
    (tmp_path / "panel.yml").write_text(json.dumps({"rule_files": [], "evaluation_interval": "1m", "tests": [test]}))
    promtool("test", "rules", str(tmp_path / "panel.yml"))


def _tests(name: str) -> list[dict[str, Any]]:
    """The tests in which an alert is expected at some time."""
    every = [test for path in TESTS for test in yaml.safe_load(path.read_text())["tests"]]
    return [test for test in every if name in str(test["promql_expr_test"])]


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: f"{rule['alert']}-{rule['labels']['severity']}")
def test_every_alert_says_how_bad_it_is_and_what_to_read(rule: dict[str, Any]) -> None:
    assert re.fullmatch(r"Gramserve[A-Z]\w+", rule["alert"])
    assert rule["labels"]["severity"] in SEVERITIES
    assert rule["labels"]["system"] == "gramserve"
    annotations = rule["annotations"]
    assert annotations["summary"]
    assert annotations["description"].endswith(".")
    assert annotations["runbook_url"] == f"docs/runbooks/{rule['alert']}.md"
    assert (ROOT / annotations["runbook_url"]).is_file()


@pytest.mark.parametrize("path", sorted(RUNBOOKS.glob("Gramserve*.md")), ids=lambda path: path.stem)
def test_every_runbook_belongs_to_an_alert_and_says_what_to_do(path: Path) -> None:
    assert path.stem in NAMES
    text = path.read_text()
    assert text.startswith(f"# {path.stem}\n")
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert headings == ["What it means", "Look", "Do"]
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert (path.parent / target).exists(), target
    for metric in re.findall(r"`(gramserve[_:][\w:]+)", text):
        assert metric in recorded() or _is_a_metric(metric), metric
    on_one_line = " ".join(text.split())
    assert set(re.findall(r"(?<!\*)\*([^*]+)\*", on_one_line)) <= _titles()
    for words in re.findall(r"`gramserve ([a-z]+(?: [a-z]+)?)", on_one_line):
        _is_a_command(words.split())
    known = (ROOT / "docs/settings.md").read_text() + (ROOT / "docker-compose.yml").read_text()
    for setting in re.findall(r"GRAMSERVE_\w+", text):
        assert re.search(rf"\b{setting}\b", known), setting


def _is_a_command(words: list[str]) -> None:
    group = typer.main.get_group(app)
    command = group.get_command(typer.Context(group), words[0])
    assert command is not None, words
    if len(words) > 1 and isinstance(command, typer.core.TyperGroup):
        assert command.get_command(typer.Context(command), words[1]), words


def _is_a_metric(name: str) -> bool:
    return name in shown() or any(other.startswith(name) for other in shown())


def _titles() -> set[str]:
    """Of all dashboards and their panels."""
    found = {board["title"].removeprefix("gramserve: ") for board in boards().values()}
    return found | {panel["title"] for board in boards().values() for panel in panels(board)}


def test_the_list_of_runbooks_names_each() -> None:
    text = (RUNBOOKS / "README.md").read_text()
    assert sorted(re.findall(r"\((Gramserve\w+)\.md\)", text)) == NAMES
    said = dict(re.findall(r"^\| \[(\w+)\].*\| (.+) \|$", text, re.MULTILINE))
    assert said == {name: _first(name)["annotations"]["summary"] for name in NAMES}


def _first(name: str) -> dict[str, Any]:
    """The rule of an alert that comes first, which is the worst."""
    return next(rule for rule in alerts() if rule["alert"] == name)


def test_what_is_recorded_is_used() -> None:
    used = set().union(*(named(query.expr) for query in queries()), *(named(rule["expr"]) for rule in rules()))
    assert recorded() - used == set()
