"""The README says what is true: its commands, options, files and Python exist."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import shlex
from pathlib import Path

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
