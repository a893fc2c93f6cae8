"""A job process whose search is a script: everything but the training is the real one.

The optimization's architecture names the scenario.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from gramserve.errors import NotAccepted, Reason
from gramserve.store.manifest import (
    Aggregation,
    ArtifactDraft,
    Calibration,
    EngineSettings,
    Label,
    Preprocessing,
    Source,
)
from optimizer_svc import job_process
from optimizer_svc.messages import Going, Message
from optimizer_svc.records import JobRecord
from optimizer_svc.spec import OptimizationResult, Stopped, TrialRow
from optimizer_svc.workspace import Kept, Workspace


def run(
    job: JobRecord, workspace: Path, say: Callable[[Message], None], stop: Callable[[], bool]
) -> OptimizationResult:
    """What `optimizer_svc.job_process` would have had the core do."""
    folder = workspace / "run"
    folder.mkdir(exist_ok=True)
    with (folder / "runs").open("a") as runs:
        runs.write("x")
    maker = os.getpid()
    print("a library prints the name of Jane Doe")
    (folder / "pid").write_text(str(os.getpid()))
    say(Going("BASELINE", "Measuring the checkpoint", 0.25))
    match job.architecture:
        case "finishes":
            pass
        case "is_refused":
            (folder / "report.json").write_text('{"why": "no candidate"}')
            raise NotAccepted(Reason.NOT_ACCEPTED, "no candidate is as good as the checkpoint", metadata={"tried": "3"})
        case "breaks":
            raise ValueError("Jane Doe")
        case "crashes":
            os.kill(os.getpid(), signal.SIGKILL)
        case "waits":
            _wait(stop)
        case "waits_once":
            if len((folder / "runs").read_text()) == 1:
                _wait(stop)
        case "waits_after_a_stage":
            maker = _stage(folder, say, stop)
        case "does_not_listen":
            _wait(lambda: False)
        case "has_children":
            try:
                started = str(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid)
            except PermissionError:
                started = "refused"
            (folder / "child").write_text(started)
            _wait(stop)
        case other:
            raise AssertionError(other)
    say(Going("PACKAGE", "Packing the artifact", 0.95, Workspace(folder).elapsed_s, 10.0))
    return _result(job, maker)


def _stage(folder: Path, say: Callable[[Message], None], stop: Callable[[], bool]) -> int:
    """The process that made the stage PRUNE; the one that made it waits after it."""

    def make() -> Kept:
        return Kept({"maker": os.getpid()}, {"weights.bin": os.urandom(1000), "empty.bin": b""})

    before_s = Workspace(folder).elapsed_s
    kept = Workspace(folder).once("prune", {"of": "scripted"}, make)
    maker = int(kept.facts["maker"])
    rows = (
        TrialRow("original fp32", "original", "fp32", "onnxruntime", 12.5, 0.97, 4000, "TRIED", ""),
        TrialRow("original int8", "original", "int8", "openvino", None, None, 1000, "DROPPED", "It is too slow."),
    )
    say(Going("PRUNE", "Cutting channels", 0.5, 60.0, 30.0, rows[:1]))
    say(Going("PRUNE", "Cutting channels", 0.5, 60.0, 30.0, rows[1:]))
    if maker == os.getpid():
        _wait(stop)
    accepted = replace(rows[0], state="ACCEPTED")
    say(Going("ACCEPT", "Comparing the candidates", 0.9, before_s + 1.0, 29.0, (accepted,)))
    return maker


def _wait(stop: Callable[[], bool]) -> None:
    while not stop():
        time.sleep(0.01)
    raise Stopped


def _result(job: JobRecord, maker: int) -> OptimizationResult:
    draft = ArtifactDraft(
        created=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        source=Source(checkpoint_sha256="0" * 64, architecture=job.architecture, parameters=1, macs=1),
        labels=tuple(Label.model_validate(label) for label in job.labels),
        preprocessing=Preprocessing(input_px=32, tiling="single", tile_px=32, max_single_px=0, min_px=8),
        calibration=Calibration(temperature=1.0),
        aggregation=Aggregation(tile_probability=0.5, min_tiles=1, top_k=1, review_probability=0.5, max_evidence=1),
        engine=EngineSettings(name="onnxruntime"),
        recipe={"description": "int8 per-channel"},
        evaluation={"artifact_accuracy": 0.96, "checkpoint_accuracy": 0.97, "proved": True},
    )
    files = {"model.onnx": b"onnx", "report.json": json.dumps({"maker": maker}).encode(), "report.html": b"<p>fine</p>"}
    return OptimizationResult(files=files, manifest=draft, summary={}, report={})


if __name__ == "__main__":
    job_process._run = run
    job_process.main(Path(sys.argv[1]))
