"""`gramserve optimize` in a process of its own against a service in another one."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path

from tests.optimizer_service.conftest import Bench, id_of
from tests.optimizer_service.test_crashes import service_process
from tests.waiting import HANGS_S

# A job in the background of a shell is started with Ctrl-C ignored; a person at a terminal never is.
HEARS_CTRL_C = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
COMMAND = (sys.executable, "-c", f"{HEARS_CTRL_C}; from gramserve.cli import app; app()", "optimize")
LABELS = """
labels:
  - {name: BACKGROUND, kind: background}
  - {name: GNR, kind: organism, gram: negative, morphology: rods}
"""


async def _start(*arguments: str) -> Process:
    return await asyncio.create_subprocess_exec(*COMMAND, *arguments, stdin=PIPE, stdout=PIPE, stderr=PIPE)


async def _says(process: Process, words: str) -> str:
    """All lines on standard error up to the one with `words`."""
    assert process.stderr is not None
    said = ""
    while words not in said:
        line = await asyncio.wait_for(process.stderr.readline(), HANGS_S)
        assert line, said
        said += line.decode()
    return said


async def _end(process: Process) -> tuple[int | None, str, str]:
    out, err = await asyncio.wait_for(process.communicate(), HANGS_S)
    return process.returncode, out.decode(), err.decode()


def _new(folder: Path, at: str, scenario: str) -> list[str]:
    (folder / "labels.yaml").write_text(LABELS)
    (folder / "checkpoint").write_bytes(b"a checkpoint")
    (folder / "data.zip").write_bytes(b"an archive")
    files = [str(folder / "checkpoint"), "--labels", str(folder / "labels.yaml"), "--data", str(folder / "data.zip")]
    return [*files, "--arch", scenario, "--model", "gram", "--optimizer", at, "--mean", "0.5", "0.4", "0.3"]


async def test_ctrl_c_leaves_a_job_that_goes_on_and_resume_follows_it_to_its_end(bench: Bench, tmp_path: Path) -> None:
    async with service_process(bench) as service:
        at = f"127.0.0.1:{service.port}"
        choices = ["--recipe", "a", "--recipe", "b", "--importance", "magnitude"]
        process = await _start(*_new(tmp_path, at, "waits_after_a_stage"), *choices)
        said = await _says(process, "trial: original int8")
        assert "prune: Cutting channels\n" in said
        assert "trial: original fp32: 12 images/s, accuracy 97.0%, 0.00 MB, tried\n" in said
        process.send_signal(signal.SIGINT)
        code, out, err = await _end(process)
        assert code == 130
        [name] = re.findall(r"(optimizations/\S+): accepted", out)
        assert f"gramserve optimize --resume {name} --optimizer {at}\n" in err
        assert bench.runs(id_of(name)) == 1
        asked = json.loads(await bench.store.get(f"{name}/optimization.json"))
        assert (asked["mean"], asked["recipes"], asked["importance"]) == ([0.5, 0.4, 0.3], ["a", "b"], "magnitude")
    async with service_process(bench) as service:  # stopped and started: it went on by itself
        at = f"127.0.0.1:{service.port}"
        code, out, _ = await _end(await _start("--resume", name, "--optimizer", at))
        assert code == 0
        assert out.splitlines()[0] == "models/gram/versions/1: int8 per-channel"
        assert "accuracy: 96.0%, checkpoint 97.0%, proved" in out
        assert out.splitlines()[-1].endswith("/report.html")
        code, again, _ = await _end(await _start("--resume", id_of(name), "--optimizer", at))
        assert (code, again) == (0, out)


async def test_detach_and_cancel(bench: Bench, tmp_path: Path) -> None:
    async with service_process(bench) as service:
        at = f"127.0.0.1:{service.port}"
        code, out, err = await _end(await _start(*_new(tmp_path, at, "waits"), "--detach"))
        assert code == 0
        [name] = re.findall(r"(optimizations/\S+): accepted", out)
        assert "--resume" in err
        code, out, _ = await _end(await _start("--cancel", name, "--optimizer", at))
        assert code == 0
        assert out in {f"{name}: cancelled\n", f"{name}: stops at its next step\n"}
        code, _, err = await _end(await _start("--resume", name, "--optimizer", at))
        assert code == 2
        assert f"gramserve: {name} was cancelled\n" in err
        code, _, err = await _end(await _start("--cancel", name, "--optimizer", at))
        assert code == 2
        assert "OPTIMIZATION_TERMINAL" in err
