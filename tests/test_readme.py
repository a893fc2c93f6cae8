"""The README says what is true: its commands, options, files and Python exist."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gramserve.cli import app
from gramserve.client import GramserveClient

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[list[str]]:
    lines = "\n".join(blocks("sh")).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith("gramserve ")]


@pytest.mark.parametrize("words", commands(), ids=lambda words: " ".join(words[:3]))
def test_every_command_of_the_tour_exists_with_its_options(words: list[str]) -> None:
    options = [word.split("=")[0] for word in words if word.startswith("--")]
    names = [word for word in words[1:3] if re.fullmatch("[a-z]+", word)]
    result = CliRunner().invoke(app, [*names, "--help"], env={"COLUMNS": "400", "NO_COLOR": "1", "TERM": "dumb"})
    assert result.exit_code == 0, result.output
    assert [option for option in options if option not in result.output] == []


def test_every_make_target_of_the_readme_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    wanted = set(re.findall(r"\bmake ([a-z]+)", README))
    assert wanted
    assert {target for target in wanted if not re.search(rf"^{target}:", makefile, re.MULTILINE)} == set()


def test_every_link_of_the_readme_leads_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if not link.startswith("http")]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_readme_counts_the_alerts_that_there_are() -> None:
    rules = (ROOT / "deploy/prometheus/rules/alerts.yml").read_text(encoding="utf-8")
    names = set(re.findall(r"- alert: (\w+)", rules))
    assert f" {len(names)} alerts " in README


def test_the_python_of_the_readme_uses_what_there_is() -> None:
    [source] = blocks("python")
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "client"
    ]
    assert calls
    for call in calls:
        assert isinstance(call.func, ast.Attribute)
        method = getattr(GramserveClient, call.func.attr)
        inspect.signature(method).bind(None, *call.args, **{str(word.arg): None for word in call.keywords})


def measured(section: str) -> dict[str, Any]:
    found = json.loads((ROOT / "benchmarks/results/serving.json").read_text(encoding="utf-8"))["sections"][section]
    assert isinstance(found["figures"], dict)
    return found["figures"]


def test_the_figures_of_the_readme_are_those_that_were_measured_last() -> None:
    many, one = measured("end_to_end").values()
    whole, field = measured("whole_slides"), measured("field")["cases"]["one tile"]
    peers = {name: runs["4"]["images_per_s"]["median"] for name, runs in measured("peers")["peers"].items()}
    stat, submit = measured("stat"), [measured("submit")[n]["inline_ms"]["median"] for n in ("1", "100", "10000")]
    idle, busy, ratio = stat["idle_ms"], stat["under_backlog_ms"], stat["p95_ratio"]
    cpu, growth, metrics = one["cpu_ms_per_slide"], measured("growth"), measured("metrics_cost")
    two = measured("scaling")["64 tiles a slide"]["over_one_child"]["2"]["median"]
    redis, grown = growth["rss_mib"]["redis"], growth["ratio"]
    share = metrics["counting_us"] / 10 / metrics["cpu_ms_per_slide"]["with"]["median"]
    figures = [
        f"{many['tiles_per_s']['median']:,.0f} tiles/s: {many['ratio_to_bare']['median']:.2f} of a bare loop",
        f"{whole['tiles_per_s']['median']:.0f} tiles/s: {whole['ratio_to_bare']['median']:.2f} of a bare OpenSlide",
        f"{one['slides_per_s']['median']:.0f} slides/s: {one['ratio_to_bare']['median']:.2f} of the bare loop",
        f"two children over one, slides of 64 tiles | {two:.2f}",
        f"{field['ms']['openvino']['median']:.1f} ms: {field['over_naive']['openvino']:.1f} times as fast",
        f"{peers['gramserve, engine chosen']:.0f} images/s with the engine that the worker chooses",
        f"{peers['gramserve']:.0f} with the others' engine; KServe {peers['kserve']:.0f}",
        f"PyTriton {peers['pytriton']:.0f}, MLServer {peers['mlserver']:.0f}, Ray Serve {peers['rayserve']:.0f}",
        f"{busy['p95']:.0f} ms: {ratio['median']:.1f} times that of an idle system",
        f"({ratio['min']:.1f} to {ratio['max']:.1f} round by round)",
        f"median {busy['p50']:.0f} ms beside {idle['p50']:.0f}",
        f"{one['cpu_ms_outside_children']['median']:.2f} ms (worker parent {cpu['worker parent']['median']:.2f}",
        "accepted after, 1 / 100 / 10,000 slides | " + " / ".join(f"{ms:.0f}" for ms in submit) + " ms",
        f"over the cost at 1,000 | {measured('queue_cost')['all_deep_over_shallow']['redis_us']:.2f}",
        f"worker {grown['worker parent']:.2f}, children {grown['child']:.2f}, gateway {grown['gateway']:.2f}",
        f"{grown['redis']:.2f} ({redis[0]:.1f} to {redis[1]:.1f} MiB)",
        f"{metrics['counting_us']:.0f} µs of CPU for a slide of one tile, {share:.1f} %",
    ]
    assert [figure for figure in figures if figure not in README] == []


def test_the_speeds_of_networks_in_the_readme_are_those_that_were_measured_last() -> None:
    found = json.loads((ROOT / "benchmarks/results/optimizer.json").read_text(encoding="utf-8"))["speed"]
    best = {
        (name, network["keep_macs"]): max(row["images_per_s"] for row in network["rows"] if not row["failure"])
        / about["torch_eager"]["images_per_s"]
        for name, about in found.items()
        for network in about["networks"]
    }
    deit = [best["deit_tiny_patch16_224", share] for share in (1.0, 0.24, 0.2)]
    said = " ".join(README.split())
    assert f"deit_tiny int8 {deit[0]:.1f}x" in said
    assert f"about halved {deit[1]:.1f} to {deit[2]:.1f}x" in said
    assert f"resnet50 int8 {best['resnet50', 1.0]:.1f}x" in said
