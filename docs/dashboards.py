"""The page docs/dashboards.md: every panel and alert, what it asks, and what a real night answered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "deploy" / "grafana" / "dashboards"
SEEN = ROOT / "benchmarks" / "results" / "dashboards.json"
ALERTS = ROOT / "deploy" / "prometheus" / "rules" / "alerts.yml"
ORDER = ("tonight", "latency", "models", "optimizer", "resources")
TEXT = """\
Grafana is part of `docker-compose.yml` and shows five dashboards, read only, at http://localhost:3000: user `admin`,
password by `docker-compose exec grafana cat /keys/password`. They are code, `deploy/grafana/*.py`, from which
`python deploy/grafana/generate.py` (needs `[dev]`) writes `deploy/grafana/dashboards/*.json`. A Grafana of your own
takes the JSON files as they are and asks for its Prometheus; they are made for Grafana 11.6. Load the rules of
`deploy/prometheus/rules` into that Prometheus as well; rules and dashboards know the services by the jobs `gateway`,
`worker`, `optimizer` and `report`. Every alert has a [runbook](runbooks/README.md).

The last column is what a test saw (`tests/deploy/test_alerts.py`): a gateway, two workers, a night report and an
optimizer, all TLS, whose search was a script, a real Prometheus that scraped them, and about 230 slides that
succeeded, failed, crashed their worker, expired, were cancelled and waited. It is the number of series with values
that a query returned, put in as Grafana does. 0 stands where such a night cannot have a value: growth of memory is
judged after six hours. No Grafana took part: that it loads the JSON is held against the types of Grafana 11.6.
"""


def dashboards_page(note: str) -> str:
    """The whole page."""
    seen = json.loads(SEEN.read_text())
    return "\n".join(["# Dashboards\n", note, TEXT, *_sections(seen)])


def _sections(seen: dict[str, int]) -> Iterator[str]:
    for name in ORDER:
        board = json.loads((FOLDER / f"{name}.json").read_text())
        yield f"## {board['title'].removeprefix('gramserve: ')}\n\n{board['description']}\n"
        yield "| Panel | Shows | Unit | Query | Series |\n|---|---|---|---|---|\n" + "".join(_rows(name, board, seen))
    yield "## Alerts\n\nThe last column is the number of series that an alert looked at in that night: none of"
    yield "memory over hours, and none of status codes with which no call ended.\n"
    yield "| Alert | Severity | Fires when this lasts | for | Series |\n|---|---|---|---|---|\n" + "".join(
        _alerts(seen)
    )


def _alerts(seen: dict[str, int]) -> Iterator[str]:
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        for rule in group["rules"]:
            name, severity = rule["alert"], rule["labels"]["severity"]
            series = str(seen.get(f"alerts/{name}/{severity}", "?"))
            yield _row(f"[{name}](runbooks/{name}.md)", severity, f"`{rule['expr']}`", rule.get("for", ""), series)


def _rows(name: str, board: dict[str, Any], seen: dict[str, int]) -> Iterator[str]:
    for panel in board["panels"]:
        for n, target in enumerate(panel.get("targets", ())):
            first = n == 0
            key = f"{name}/{panel['title']}/{target['refId']}"
            yield _row(
                panel["title"] if first else "",
                panel["description"] if first else "",
                panel["fieldConfig"]["defaults"]["unit"] if first else "",
                f"`{target['expr']}`",
                str(seen.get(key, "?")),
            )


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"
