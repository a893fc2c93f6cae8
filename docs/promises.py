"""The written part of docs/promises.md, and behind it what the tests and the last long runs say."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TESTS, RESULTS = ROOT / "tests", ROOT / "benchmarks" / "results"
HOSTILE = ("faults", "doors", "attacks", "fuzz", "soak")
MARK = "<!-- From here on written by docs/generate.py from the tests. -->\n"


def promises_page() -> str:
    """The page as it is, with all behind the mark made anew."""
    written = (ROOT / "docs" / "promises.md").read_text().partition(MARK)[0]
    parts = [written + MARK, *_invariants(), *_hostile(), *_fuzzing(), *_soak(), *_calm()]
    return "\n".join(parts) + "\n"


def _invariants() -> Iterator[str]:
    """Each of the table in docs/architecture.md, with the tests that name it."""
    tests = list(_tests())
    table = (ROOT / "docs" / "architecture.md").read_text()
    yield "## I1 to I15\n"
    for name, promise, text in re.findall(r"^\| (I\d+) \| (.+?) \| (.+?) \|$", table, re.MULTILINE):
        yield f"### {name}: {promise}\n\n{text[0].upper()}{text[1:]}.\n"
        mine = [(file, test) for file, test in tests if f"_{name}_" in test]
        for file in dict.fromkeys(file for file, _ in mine):
            yield f"- `{file}`"
            yield from (f"  - `{test}`" for other, test in mine if other == file)
        yield ""


def _tests() -> Iterator[tuple[str, str]]:
    """File and name of every test that names an invariant."""
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_I"):
                yield str(path.relative_to(ROOT)), node.name


def _hostile() -> Iterator[str]:
    yield "## Faults, doors, attacks, fuzzing and soak\n"
    yield "Every file of tests that does nothing but try to break a promise.\n"
    for folder in HOSTILE:
        for path in sorted((TESTS / folder).rglob("test_*.py")):
            sentence = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
            yield f"- `{path.relative_to(ROOT)}`: {sentence}"
    yield ""


def _fuzzing() -> Iterator[str]:
    path = RESULTS / "fuzz.json"
    if not path.is_file():
        return
    results = json.loads(path.read_text())
    yield "## The last fuzzing\n\n| target | inputs | minutes | findings |\n|---|---|---|---|"
    for name, one in results.items():
        yield _fuzzed(name, [one])
    yield _fuzzed("together", list(results.values())) + "\n"


def _fuzzed(name: str, results: list[dict[str, Any]]) -> str:
    runs, minutes = sum(one["runs"] for one in results), sum(one["seconds"] for one in results) / 60
    findings = sum(len(one["findings"]) for one in results)
    return f"| {name} | {runs:,} | {minutes:.0f} | {findings} |"


def _soak() -> Iterator[str]:
    path = RESULTS / "soak.json"
    if not path.is_file():
        return
    night = json.loads(path.read_text())
    yield "## The last soak\n"
    wounds = sum(night["wounds"].values())
    yield f"{night['minutes']:.0f} minutes, seed {night['seed']}: {night['batches']:,} batches with"
    yield f"{night['slides']:,} slides, {night['stat_slides']:,} STAT slides, {wounds:,} wounds,"
    yield f"**{len(night['faults'])} faults**.\n"
    if path.with_suffix(".svg").is_file():
        yield "![Memory of each role over the night](../benchmarks/results/soak.svg)\n"
    yield "| wound | times |\n|---|---|"
    yield from (f"| {name} | {times} |" for name, times in night["wounds"].items())
    yield from _memory(night)


def _calm() -> Iterator[str]:
    path = RESULTS / "soak_calm.json"
    if not path.is_file():
        return
    night = json.loads(path.read_text())
    yield "\n## The last calm night\n"
    yield f"{night['minutes']:.0f} minutes, {night['batches']:,} batches with {night['slides']:,} slides, no wounds."
    yield from _memory(night)


def _memory(night: dict[str, Any]) -> Iterator[str]:
    hours = 1000 * night["minutes"] / 60 / night["batches"]
    yield f"\n1,000 batches took {hours:.2f} hours.\n"
    yield "| process | MiB an hour | 95 % interval | MiB in 1,000 batches | MiB | lives |\n|---|---|---|---|---|---|"
    for role, slope in night["memory"].items():
        if slope:
            interval = f"{slope['low']:+.2f} to {slope['high']:+.2f}"
            size = f"{hours * slope['mib_per_h']:+.2f} | {slope['mean_mib']:.0f} | {slope['lives']}"
            yield f"| {role} | {slope['mib_per_h']:+.2f} | {interval} | {size} |"
