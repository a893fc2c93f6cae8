"""docs/promises.md names the tests that hold each promise: they exist, and none that should be there is missing."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.sources import ROOT

PAGE = (ROOT / "docs" / "promises.md").read_text()
HOSTILE = ("faults", "doors", "attacks", "fuzz", "soak")


def named_in(path: Path) -> set[str]:
    """The names of the tests in a file."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return {
        node.name
        for node in nodes
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


def test_every_test_that_is_named_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", PAGE)
    assert len(named) > 20
    missing = [f"{file}::{name}" for file, name in named if name not in named_in(ROOT / file)]
    assert not missing


def test_every_file_that_is_named_exists() -> None:
    missing = [file for file in re.findall(r"`(tests/[\w/]+\.py)`", PAGE) if not (ROOT / file).is_file()]
    assert not missing


def test_every_invariant_has_tests_that_name_it_and_they_are_listed() -> None:
    invariants = re.findall(r"^\| (I\d+) \|", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE)
    assert invariants == [f"I{number}" for number in range(1, 16)]
    listed = PAGE.partition("## I1 to I15")[2]
    for invariant in invariants:
        section = listed.partition(f"### {invariant}: ")[2].partition("\n##")[0]
        names = re.findall(r"`(test_\w+)`", section)
        assert names, f"{invariant} has no test"
        assert all(f"_{invariant}_" in name for name in names)


def test_every_file_of_hostile_tests_is_named() -> None:
    files = [path for folder in HOSTILE for path in sorted((ROOT / "tests" / folder).glob("test_*.py"))]
    assert files
    missing = [str(path.relative_to(ROOT)) for path in files if f"`{path.relative_to(ROOT)}`" not in PAGE]
    assert not missing, "run `python docs/generate.py`"


def test_every_page_that_is_named_exists() -> None:
    pages = re.findall(r"\]\((\w+\.md)\)", PAGE)
    assert pages
    assert not [page for page in pages if not (ROOT / "docs" / page).is_file()]
