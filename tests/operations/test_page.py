"""docs/operations.md says what is true: its commands, options, links and tests exist."""

from __future__ import annotations

import re
import shlex

import pytest
from typer.testing import CliRunner

from gramserve.cli import app
from gramserve.cli.app import COMMANDS
from tests.sources import ROOT

PAGE = (ROOT / "docs/operations.md").read_text(encoding="utf-8")


def commands() -> list[list[str]]:
    """All `gramserve ...` of the page, in blocks and in lines, without what follows a comment."""
    blocks = "\n".join(re.findall(r"```\n(.*?)```", PAGE, re.DOTALL)).splitlines()
    inline = re.findall(r"`(gramserve [^`]+)`", PAGE)
    return [shlex.split(line, comments=True) for line in [*blocks, *inline] if line.startswith("gramserve ")]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_exists_with_its_options(words: list[str]) -> None:
    assert words[1] in COMMANDS
    names = [word for word in words[1:3] if re.fullmatch("[a-z]+", word)]
    result = CliRunner().invoke(app, [*names, "--help"], env={"COLUMNS": "400", "NO_COLOR": "1", "TERM": "dumb"})
    assert result.exit_code == 0, result.output
    assert [word for word in words if word.startswith("--") and word not in result.output] == []


def test_every_link_leads_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", PAGE) if not link.startswith("http")]
    assert len(links) > 10
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []


def test_every_heading_that_is_linked_is_there() -> None:
    for file, anchor in re.findall(r"\]\(([^)#]*)#([^)]+)\)", PAGE):
        text = (ROOT / "docs" / file).read_text(encoding="utf-8") if file else PAGE
        headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        anchors = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert anchor in anchors, f"{file}#{anchor}"


def test_every_test_that_is_named_is_there() -> None:
    for name in re.findall(r"`(tests/[a-z/_*.]+)`", PAGE):
        assert list(ROOT.glob(name)), name


def test_every_check_of_the_doctor_has_a_row() -> None:
    source = "".join(path.read_text() for path in (ROOT / "gramserve/cli/checks").glob("*.py"))
    named = set(re.findall(r'Finding\(f?"([^"{]+)', source)) | set(re.findall(r'name: str = "([^"]+)"', source))
    section = PAGE.partition("| check |")[2].partition("## Size")[0]
    missing = [name for name in sorted(named) if name.strip(" [(") not in section]
    assert missing == []
