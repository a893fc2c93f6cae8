"""What a benchmark run leaves in the project, made from figures that were not measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import metrics_cost, page
from benchmarks.peers.catalogue import PEERS
from benchmarks.peers.environments import HERE
from benchmarks.stack import ROLES
from benchmarks.tables import BUILDERS, tables
from gramserve.local.stack import Stack, StackOptions
from tests.sources import ROOT
from tests.waiting import HANGS_S

PAGE = (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")
RESULTS = ROOT / "benchmarks/results/serving.json"


def spread(median: float) -> dict[str, float]:
    return {"median": median, "min": median / 2, "max": median * 2}


def sections(**figures: Any) -> dict[str, Any]:
    return {name: {"measured": "2026-11-25T00:00:00+00:00", "figures": value} for name, value in figures.items()}


def turn(rate: float) -> dict[str, Any]:
    keys = ("images_per_s", "p50_ms", "p99_ms", "cpu_ms_per_image", "memory_mib")
    return {"4": {key: spread(rate) for key in keys}}


PEER_FIGURES = {
    "versions": {"kserve": "0.21.0"},
    "left_out": {"pytriton": "not set up"},
    "peers": {"gramserve": turn(300), "kserve": turn(250)},
    "over_best_peer": {"gramserve": {"4": spread(1.2)}},
}


SLIDES = {
    "slides": 10,
    "tiles_per_slide": 2,
    "engines": {"onnxruntime": 10},
    "bare_engine": "onnxruntime",
    **{key: spread(5) for key in ("slides_per_s", "tiles_per_s", "bare_slides_per_s", "cpu_ms_outside_children")},
    "ratio_to_bare": spread(0.9),
    "cpu_ms_per_slide": {"child": spread(6.0), "gateway": spread(1.0), "redis": spread(0.5)},
    "stages_ms_per_slide": {"queue": spread(90.0), "infer": spread(4.0), "decode": spread(0.5)},
}
CORE = {"int8_limit_ms_per_tile": 0.5, "decoding": {"two tiles": {"opencv_ms": 0.25}}}


def test_a_stage_stands_beside_what_the_core_can_do_at_best() -> None:
    rows = {row[0]: row for row in list(BUILDERS["end_to_end"]({"two tiles": SLIDES}, {"limits": CORE}))[-1].rows}
    assert rows["infer"][3:] == ("1.000", "0.25")
    assert rows["decode"][3:] == ("0.250", "0.50")
    assert rows["rest of the child"][1] == "1.500"
    assert "queue" not in rows


def test_the_figures_of_the_page_are_those_of_the_results_file() -> None:
    if not RESULTS.exists():
        pytest.skip("no full run was recorded yet")
    assert page.with_figures(PAGE, json.loads(RESULTS.read_text(encoding="utf-8"))) == PAGE


def test_the_page_says_what_every_benchmark_measures() -> None:
    assert [name for name in BUILDERS if f"| `{name}` |" not in PAGE] == []


def test_a_later_run_replaces_its_own_figures_and_keeps_the_others(tmp_path: Path) -> None:
    docs, results = tmp_path / "docs", tmp_path / "results"
    docs.mkdir()
    (docs / "benchmarks.md").write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n", encoding="utf-8")
    page.publish(sections(peers=PEER_FIGURES, end_to_end={"slides": SLIDES}, queue={"ms": 1.0}), results, docs)
    page.publish(sections(queue={"ms": 2.0}), results, docs)
    text = (docs / "benchmarks.md").read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "| ms | 2.000 |" in text
    assert "| kserve 0.21.0 | 4 | 250 (125 to 500) |" in text
    assert "old" not in text
    assert (docs / "benchmarks.svg").read_text(encoding="utf-8").count("<svg") == 1


def test_a_server_that_was_left_out_is_named_with_the_reason() -> None:
    rows = [row for table in tables(sections(peers=PEER_FIGURES)) for row in table.rows]
    assert ("pytriton", "", "left out", "not set up") in rows


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.folder)
def test_every_peer_has_a_server_and_pins_what_it_is_measured_for(peer: Any) -> None:
    assert (HERE / peer.folder / "server.py").exists()
    pins = (HERE / peer.folder / "requirements.txt").read_text(encoding="utf-8").split()
    assert any(pin.split("==")[0].split("[")[0] == peer.package and "==" in pin for pin in pins)


def test_a_stack_without_metrics_counts_nothing_and_is_otherwise_the_same() -> None:
    code = (
        "import numpy as np\n"
        "from gramserve.metrics import Metrics\n"
        "from gramserve.runtime import artifact\n"
        "from inference_svc.served import Served\n"
        "metrics = Metrics()\n"
        "metrics.count('tiles')\n"
        "Served(metrics).called('models/m/versions/1', None)\n"
        "print(metrics.registry.get_sample_value('gramserve_tiles_total'), artifact.tally(np.ones((1, 1)), []).labels)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **metrics_cost.unmeasured(), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=HANGS_S,
    )
    assert done.stdout.split() == ["0.0", "{}"]


def test_every_process_of_the_stack_has_a_role_in_the_figures(tmp_path: Path) -> None:
    modules = {spec.module for spec in Stack(StackOptions(tmp_path), print)._specs()}
    assert modules - set(ROLES) == set()
    assert len({ROLES[module] for module in modules}) == len(modules)
