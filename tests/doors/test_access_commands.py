"""`gramserve principals` and `gramserve tokens`, as a person uses them."""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from gramserve.access.directory import Directory
from gramserve.access.editing import AccessEditor
from gramserve.access.file import AccessFile
from gramserve.access.principal import Role
from gramserve.cli import app
from gramserve.errors import GramserveError, InvalidInput, Unauthenticated
from gramserve.metrics import Metrics
from tests.doors.callers import DAY, Callers
from tests.waiting import HANGS_S

TOKEN = re.compile(r"gst_([0-9a-f]{12})_([0-9a-f]{64})")
runner = CliRunner()


@pytest.fixture
def access_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "access.yaml"
    monkeypatch.setenv("GRAMSERVE_ACCESS_FILE", str(path))
    return path


def run(*words: str) -> Result:
    result = runner.invoke(app, words)
    assert result.exit_code == 0, result.output
    return result


def refused(*words: str) -> str:
    """The one line in which a command says no."""
    result = runner.invoke(app, words)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    return result.stderr


def new_token(*words: str) -> str:
    """What a command printed on standard output: a token and nothing else."""
    printed = run("tokens", *words).stdout.strip()
    assert TOKEN.fullmatch(printed)
    return printed


def test_a_token_is_printed_once_and_only_its_digest_is_kept(access_file: Path) -> None:
    run("principals", "add", "lis", "--role", "submitter", "--role", "reviewer", "--laboratory", "north")
    token = new_token("create", "lis")
    kept = access_file.read_text()
    id_, secret = token.split("_")[1:]
    assert secret not in kept
    assert f"sha256: {hashlib.sha256(bytes.fromhex(secret)).hexdigest()}" in kept
    assert secret not in run("tokens", "list").output
    found = Directory(access_file, Metrics()).of_token(token)
    assert found.name == "lis"
    assert found.roles == {Role.SUBMITTER, Role.REVIEWER}
    assert found.laboratories == {"north"}
    assert id_ in run("tokens", "list").output


def test_tokens_are_never_alike(access_file: Path) -> None:
    run("principals", "add", "lis", "--role", "submitter")
    tokens = [new_token("create", "lis") for _ in range(3)]
    assert len({part for token in tokens for part in token.split("_")[1:]}) == 6


def test_a_token_expires_after_the_days_it_was_given(access_file: Path) -> None:
    run("principals", "add", "lis", "--role", "submitter")
    new_token("create", "lis", "--days", "3")
    ((_, token),) = AccessEditor(access_file).read().tokens()
    assert token.expires - token.created == timedelta(days=3)
    assert abs(token.created - datetime.now(UTC)) < timedelta(minutes=5)


def test_rotating_gives_a_new_token_and_lets_the_old_one_run_out(access_file: Path) -> None:
    run("principals", "add", "lis", "--role", "submitter")
    old = new_token("create", "lis")
    new = new_token("rotate", old.split("_")[1], "--overlap-hours", "2")
    now = datetime.now(UTC).timestamp()
    for clock, holds in ((now, [old, new]), (now + 2 * 3600 + 60, [new])):
        directory = Directory(access_file, Metrics(), clock=lambda clock=clock: clock)  # type: ignore[misc]
        assert [token for token in (old, new) if _holds(directory, token)] == holds


def test_rotating_never_makes_an_old_token_live_longer(access_file: Path) -> None:
    run("principals", "add", "lis", "--role", "submitter")
    old = new_token("create", "lis", "--days", "1").split("_")[1]
    before = _expiry(access_file, old)
    new_token("rotate", old, "--overlap-hours", "8000")
    assert _expiry(access_file, old) == before


def _expiry(access_file: Path, token_id: str) -> datetime:
    return next(token.expires for _, token in AccessEditor(access_file).read().tokens() if token.id == token_id)


def _holds(directory: Directory, token: str) -> bool:
    try:
        directory.of_token(token)
    except Unauthenticated:
        return False
    return True


def test_a_revoked_token_holds_no_more_and_stays_in_the_list(access_file: Path) -> None:
    run("principals", "add", "lis", "--role", "submitter")
    token = new_token("create", "lis")
    run("tokens", "revoke", token.split("_")[1])
    assert not _holds(Directory(access_file, Metrics()), token)
    first = AccessEditor(access_file).read()
    assert "revoked" in run("tokens", "list").output
    run("tokens", "revoke", token.split("_")[1])
    assert AccessEditor(access_file).read() == first, "when it was revoked does not move"


def test_a_removed_principal_is_gone_with_its_tokens(access_file: Path) -> None:
    run("principals", "add", "lis", "--role", "submitter")
    token = new_token("create", "lis")
    run("principals", "remove", "lis")
    assert not _holds(Directory(access_file, Metrics()), token)
    assert "lis" not in run("principals", "list").output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tokens", "create", "nobody"], "there is no principal nobody"),
        (["tokens", "revoke", "0" * 12], "there is no token"),
        (["tokens", "rotate", "0" * 12], "there is no token"),
        (["principals", "remove", "nobody"], "there is no principal nobody"),
        (["principals", "add", "lis", "--role", "submitter"], "there is a principal lis already"),
        (["principals", "add", "anyone", "--role", "submitter"], "anyone is what the audit record calls somebody else"),
        (["principals", "add", "gramserve", "--role", "auditor"], "gramserve is what the audit record calls somebody"),
        (
            ["principals", "add", "unknown", "--role", "operator"],
            "unknown is what the audit record calls somebody",
        ),
        (["principals", "add", "A b", "--role", "submitter"], "name:"),
        (["principals", "add", "new", "--role", "submitter", "--laboratory", "North"], "laboratories:"),
        (["principals", "add", "new", "--role", "submitter", "--laboratory", "*", "--laboratory", "n"], "* alone"),
        (
            ["principals", "add", "new", "--role", "auditor", "--certificate", "taken"],
            "a certificate stands in it twice",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_and_changes_nothing(
    access_file: Path, words: list[str], said: str
) -> None:
    run("principals", "add", "lis", "--role", "submitter", "--certificate", "taken")
    before = access_file.read_bytes()
    assert said in refused(*words)
    assert access_file.read_bytes() == before
    assert sorted(path.name for path in access_file.parent.iterdir()) == ["access.yaml", "access.yaml.lock"]


def test_without_an_access_file_the_commands_say_so(access_file: Path) -> None:
    assert "the access file cannot be used" in refused("principals", "list")
    assert "the access file cannot be used" in refused("tokens", "create", "lis")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("principals:\n- name: a\n", "principals.0.roles"),
        ("principals:\n- {name: a, roles: [submitter], laboratories: [no]}\n", "principals.0.laboratories.0"),
        ("principals:\n- {name: a, roles: [submitter], colour: red}\n", "principals.0.colour"),
        ("principals:\n- {name: a, roles: [submitter]}\n- {name: a, roles: [auditor]}\n", "a name stands in it twice"),
        ("principals:\n- {name: a, roles: [submitter], tokens: [{id: x, sha256: secret-stuff}]}\n", "tokens.0.id"),
        ("principals:\n  - [\n", "line 3 is no YAML"),
        ("!!python/object/apply:os.system ['true']", "line 1 is no YAML"),
        ("just text", "cannot be used"),
    ],
)
def test_a_file_that_cannot_be_understood_says_where_and_never_what(text: str, said: str) -> None:
    with pytest.raises(GramserveError) as wrong:
        AccessFile.from_yaml(text.encode())
    assert said in wrong.value.message
    assert "secret-stuff" not in wrong.value.message


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
@example(b"principals: [{name: a, roles: [auditor], tokens: [{created: 2026-13-45}]}]")
@example(b"!!bool maybe")
@example(b"!!timestamp soon")
@example(b'!!int ""')
@example(b"? {a: b}\n: c")
@example(b"&a [*a]")
@example(b"[" * 500)
def test_no_file_is_more_than_unusable(data: bytes) -> None:
    with contextlib.suppress(InvalidInput):
        AccessFile.from_yaml(data)


def test_a_file_that_was_written_is_read_as_it_was(tmp_path: Path) -> None:
    callers = Callers(tmp_path)
    callers.add("ada", Role, ["north", "1e3", "007"], ["ada.example"])
    callers.add("everywhere", [Role.OPERATOR], ["*"])
    file = callers.editor.read()
    assert AccessFile.from_yaml(file.to_yaml()) == file
    assert [p.name for p in file.principals] == ["ada", "everywhere"]


def _create_some(path: Path, count: int) -> None:
    for _ in range(count):
        AccessEditor(path).create_token("lis", DAY)


def test_changes_at_once_are_all_kept(access_file: Path) -> None:
    run("principals", "add", "lis", "--role", "submitter")
    context = multiprocessing.get_context("spawn")
    editors = [context.Process(target=_create_some, args=(access_file, 5)) for _ in range(3)]
    for editor in editors:
        editor.start()
    for editor in editors:
        editor.join(60)
    assert [editor.exitcode for editor in editors] == [0, 0, 0]
    assert len(list(AccessEditor(access_file).read().tokens())) == 15


def test_the_file_keeps_its_mode_and_a_link_to_it_stays_a_link(access_file: Path, tmp_path: Path) -> None:
    run("principals", "add", "lis", "--role", "submitter")
    assert access_file.stat().st_mode & 0o777 == 0o644
    access_file.chmod(0o600)
    link = tmp_path / "link.yaml"
    link.symlink_to(access_file)
    AccessEditor(link).create_token("lis", DAY)
    assert link.is_symlink()
    assert access_file.stat().st_mode & 0o777 == 0o600
    assert len(list(AccessEditor(access_file).read().tokens())) == 1


def test_the_token_alone_goes_to_standard_output(access_file: Path) -> None:
    run("principals", "add", "lis", "--role", "submitter")
    command = [sys.executable, "-c", "from gramserve.cli import app; app()", "tokens", "create", "lis"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=HANGS_S)
    assert TOKEN.fullmatch(done.stdout.strip())
    assert "shown only now" in done.stderr
