"""What a person sees of the command line without any service."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gramserve.cli import app
from gramserve.cli.app import COMMANDS

runner = CliRunner()


@pytest.fixture
def nobody() -> str:
    """An address where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def test_help_names_every_command() -> None:
    result = runner.invoke(app, ["--help"])
    assert result.exit_code == 0
    for command in COMMANDS:
        assert command in result.output


@pytest.mark.parametrize("command", [*([name] for name in COMMANDS), ["models", "list"], ["models", "promote"]])
def test_every_command_has_help(command: list[str]) -> None:
    result = runner.invoke(app, [*command, "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["watch", "b"],
        ["results", "b"],
        ["cancel", "b"],
        ["retry", "b"],
        ["models", "list"],
        ["models", "show", "m"],
        ["models", "promote", "m", "3"],
        ["models", "rollback", "m"],
        ["models", "shadow", "m"],
        ["models", "unshadow", "m"],
    ],
)
def test_without_a_gateway_one_line_says_what_to_do(
    arguments: list[str], nobody: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gramserve.cli.connection.CONNECT_S", 0.2)
    result = runner.invoke(app, [*arguments, "--gateway", nobody])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert nobody in result.stderr
    assert "gramserve up" in result.stderr
    assert "SERVICE_UNAVAILABLE" in result.stderr


def test_without_an_optimizer_one_line_says_what_to_do(
    nobody: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gramserve.cli.connection.CONNECT_S", 0.2)
    (tmp_path / "labels.yaml").write_text("labels: [{name: A, kind: background}]")
    arguments = ["optimize", "c.safetensors", "--arch", "resnet10t", "--labels", str(tmp_path / "labels.yaml")]
    result = runner.invoke(app, [*arguments, "--data", str(tmp_path), "--model", "m", "--optimizer", nobody])
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "--optimizer" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["submit", "/nowhere/1.png", "--model", "m"], "/nowhere/1.png does not exist (INVALID_FIELD)"),
        (["submit", __file__, "--model", "m", "--due", "soon"], "--due must be HH:MM"),
        (["optimize", "c", "--arch", "a", "--labels", "/nowhere.yaml", "--data", "d", "--model", "m"], "/nowhere.yaml"),
        (["optimize", "c", "--arch", "a", "--model", "m"], "an optimization needs CHECKPOINT"),
        (["optimize", "--resume", "o", "--cancel", "o"], "stand alone"),
        (["study", "d", "--arch", "a", "--output", "o", "--weights", "a"], "--weights takes NAME=FILE"),
        (["study", "d", "--arch", "a", "--output", "o", *(2 * ["--checkpoint", "a=b"])], "once for each NAME"),
        (["study", "/nowhere", "--arch", "resnet18", "--output", "o"], "INVALID_DATASET"),
        (["optimize", "c", "--resume", "o"], "stand alone"),
        (["submit", __file__, "--model", "m", "--output", "/nowhere/calls.jsonl"], "/nowhere/.calls.jsonl.part"),
        (["classify", __file__, "--model", "m", "--output", "/tmp"], "/tmp: is a directory"),
        (["results", "b", "--output", "/nowhere/calls.jsonl"], "no such file or directory"),
        (["samples", "/proc/nowhere"], "/proc/nowhere"),
        (["models", "list", "--gateway", ""], "HOST:PORT"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(arguments: list[str], said: str) -> None:
    result = runner.invoke(app, arguments)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert said in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["optimize", "--seed", "-1"],
        ["optimize", "--seed", str(2**32)],
        ["optimize", "--min-assessed-tiles", "99999999999"],
        ["optimize", "--budget-minutes", "inf"],
        ["samples", "d", "--seed", "-1"],
        ["finetune", "d", "--arch", "a", "--output", "o", "--seed", "-1"],
        ["study", "d", "--arch", "a", "--output", "o", "--seed", str(2**32)],
    ],
)
def test_numbers_that_no_message_can_carry_are_refused_with_their_range(arguments: list[str]) -> None:
    result = runner.invoke(app, arguments)
    assert isinstance(result.exception, SystemExit)
    assert result.exit_code == 2
    assert f"Invalid value for '{arguments[-2]}'" in result.stderr


def test_doctor_passes_a_machine_that_runs_these_tests(tmp_path: Path) -> None:
    result = runner.invoke(app, ["doctor", "--data-dir", str(tmp_path)])
    assert result.exit_code == 0
    for check in ("versions", "extra [worker]", "cpu", "disk", "store", "redis", "port of the gateway"):
        assert check in result.output


def test_doctor_says_what_is_wrong(tmp_path: Path, nobody: str) -> None:
    (tmp_path / "file").touch()
    result = runner.invoke(
        app,
        [
            "doctor",
            "--data-dir",
            str(tmp_path),
            "--redis-url",
            f"redis://{nobody}",
            "--store-url",
            str(tmp_path / "file"),
        ],
    )
    assert result.exit_code == 1
    assert result.output.count("failed") == 2
    assert "GRAMSERVE_REDIS_URL" in result.output
    assert "GRAMSERVE_STORE_URL" in result.output


@pytest.mark.parametrize("url", ["redis://worker:hunter2@{}", "redis://{}?password=hunter2", "unix://:hunter2@/x.sock"])
def test_doctor_does_not_repeat_the_password_of_redis(tmp_path: Path, nobody: str, url: str) -> None:
    result = runner.invoke(app, ["doctor", "--data-dir", str(tmp_path), "--redis-url", url.format(nobody)])
    assert result.exit_code == 1
    assert "GRAMSERVE_REDIS_URL" in result.output
    assert "hunter2" not in result.output
