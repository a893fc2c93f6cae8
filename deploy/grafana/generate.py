"""Writes the dashboards that Grafana loads from the code beside this file; `--check` says whether they drifted."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
from latency import latency
from models import models
from optimizer import optimizer
from resources import resources
from tonight import tonight

FOLDER = Path(__file__).resolve().parent / "dashboards"
BOARDS = {
    "tonight": tonight,
    "latency": latency,
    "models": models,
    "optimizer": optimizer,
    "resources": resources,
}


def pages() -> dict[str, str]:
    """The JSON of each dashboard, by file name."""
    return {f"{name}.json": _text(board().build()) for name, board in BOARDS.items()}


def _text(board: Dashboard) -> str:
    """The JSON of a dashboard, its panels numbered in their order."""
    for number, panel in enumerate(board.panels or (), start=1):
        panel.id_val = number
    return json.dumps(board, cls=JSONEncoder, indent=1, sort_keys=True) + "\n"


def drifted() -> list[str]:
    """Files that differ from the code, are missing, or belong to no dashboard."""
    made = pages()
    found = {path.name: path.read_text() for path in FOLDER.glob("*.json")}
    return sorted(name for name in {*made, *found} if made.get(name) != found.get(name))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    if parser.parse_args().check:
        if names := drifted():
            sys.exit("dashboards differ from the code; run `python deploy/grafana/generate.py`: " + ", ".join(names))
    else:
        FOLDER.mkdir(exist_ok=True)
        for name, text in pages().items():
            (FOLDER / name).write_text(text)
