"""A study of tiny architectures: what it compares, what it draws, and what one that fails does to it."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gramserve.errors import InvalidInput
from optimizer_svc.finetune import FinetuneResult
from optimizer_svc.study import StudyProgress, StudySpec, run_study
from optimizer_svc.study.architecture import CHANNEL, TENSOR, study_architecture
from optimizer_svc.study.process import run_apart
from optimizer_svc.study.spec import Task
from tests.optimizer.conftest import ARCHITECTURE, INPUT_PX, LABELS

pytestmark = pytest.mark.slow

NOW = datetime(2026, 11, 25, tzinfo=UTC)


@dataclasses.dataclass
class Done:
    spec: StudySpec
    written: dict[str, Any]
    progress: list[StudyProgress]


def here(task: Task, folder: Path, progress: Callable[[str, float], None]) -> dict[str, Any]:
    """An architecture in this process, which is quicker than a process of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    return study_architecture(task, folder, progress, lambda: 0.0)


@pytest.fixture(scope="module")
def spec(data: Path, finetuned: FinetuneResult, tmp_path_factory: pytest.TempPathFactory) -> StudySpec:
    return StudySpec(
        data=data,
        architectures=(ARCHITECTURE,),
        output=tmp_path_factory.mktemp("study"),
        labels=LABELS,
        checkpoints={ARCHITECTURE: finetuned.output},
        distill_epochs=1,
        budget_minutes=1,
    )


@pytest.fixture(scope="module")
def done(spec: StudySpec) -> Done:
    progress: list[StudyProgress] = []
    return Done(spec, run_study(spec, progress.append, runner=here, now=lambda: NOW), progress)


def test_every_network_is_measured_in_fp32_and_int8_on_every_engine(done: Done) -> None:
    (found,) = done.written["architectures"]
    assert found["failure"] == ""
    assert found["family"] == "ResNet"
    assert [n["name"] for n in found["networks"]] == ["original", "pruned 50%"]
    engines = {row["engine"] for row in found["rows"]}
    assert "onnxruntime" in engines
    wanted = {
        (n["name"], recipe, engine)
        for n in found["networks"]
        for recipe in ("fp32", TENSOR, CHANNEL, found["best_recipes"][n["name"]])
        for engine in engines
    }
    rows = [row for row in found["rows"] if not row["failure"]]
    assert {(row["network"], row["recipe"], row["engine"]) for row in rows} == wanted
    for row in rows:
        assert row["images_per_s_low"] <= row["images_per_s"] <= row["images_per_s_high"]
        assert row["difference"]["tiles"] == found["tiles"]["val"] == 60
        assert (row["snr_db"] is None) == (row["recipe"] == "fp32")
    smallest = min(row["bytes"] for row in rows)
    assert smallest * 3 < found["checkpoint"]["bytes"]


def test_scales_per_channel_are_held_against_per_tensor_on_the_same_tiles(done: Done) -> None:
    scales = done.written["scales"]
    engines = {row["engine"] for row in done.written["architectures"][0]["rows"]}
    assert {(r["network"], r["engine"]) for r in scales["rows"]} == {
        (network, engine) for network in ("original", "pruned 50%") for engine in engines
    }
    assert scales["channel_better"] + scales["tensor_better"] + scales["equal"] == len(scales["rows"])
    by_name = {(r["network"], r["recipe"], r["engine"]): r for r in done.written["architectures"][0]["rows"]}
    for row in scales["rows"]:
        channel, tensor = (by_name[row["network"], recipe, row["engine"]] for recipe in (CHANNEL, TENSOR))
        assert row["difference"]["estimate"] == pytest.approx(channel["accuracy"] - tensor["accuracy"])


def test_json_table_and_page_say_the_same(done: Done) -> None:
    folder = done.spec.output
    assert json.loads((folder / "study.json").read_bytes()) == done.written
    lines = list(csv.DictReader(io.StringIO((folder / "study.csv").read_text())))
    found = done.written["architectures"][0]
    assert len(lines) == 1 + len(found["rows"])
    assert lines[0]["engine"] == "torch eager"
    assert [line["recipe"] for line in lines[1:]] == [row["recipe"] for row in found["rows"]]
    page = (folder / "study.html").read_text()
    assert page.count("<svg") == 4
    assert ARCHITECTURE in page
    assert not re.search(r"<script|https?://(?!www\.w3\.org)", page), "the page loads something"
    assert str(done.spec.data) not in page + json.dumps(done.written)
    assert not re.search(r"#0a00[0-9a-f]{2}|#0[1-6]0[1-6]0[1-6]", page), "a colour that does not follow the page"


def test_progress_goes_forward_to_the_end(done: Done) -> None:
    fractions = [step.done + step.fraction for step in done.progress]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1


def test_what_is_finished_is_not_done_again(done: Done) -> None:
    progress: list[StudyProgress] = []
    again = run_study(done.spec, progress.append, runner=here, now=lambda: NOW)
    assert again == done.written
    assert not any("Quantizing" in step.message or "Timing" in step.message for step in progress)


def test_a_checkpoint_is_fine_tuned_once_and_pruning_can_be_left_out(spec: StudySpec, tmp_path: Path) -> None:
    plain = dataclasses.replace(spec, output=tmp_path, checkpoints={}, epochs=1, input_px=INPUT_PX, keep_macs=None)
    runs = []
    for _ in range(2):
        progress: list[StudyProgress] = []
        written = run_study(plain, progress.append, runner=here, now=lambda: NOW)
        runs.append(any("epoch" in step.message for step in progress))
    assert runs == [True, False]
    (found,) = written["architectures"]
    assert found["finetuned"]
    assert found["input_px"] == INPUT_PX
    assert {row["network"] for row in found["rows"]} == {"original"}
    assert found["not_pruned"] == "pruning was not asked for"


def test_an_architecture_that_fails_in_its_own_process_is_a_row_that_says_why(
    spec: StudySpec, done: Done, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no weights")
    two = dataclasses.replace(
        spec,
        architectures=("test_vit", ARCHITECTURE),
        checkpoints={**spec.checkpoints, "test_vit": broken},
    )
    written = run_study(two, runner=run_apart, now=lambda: NOW)
    failed, found = written["architectures"]
    assert failed["failure"] == "the checkpoint is neither a safetensors nor a torch zip file"
    assert found == done.written["architectures"][0]
    page = (two.output / "study.html").read_text()
    assert "Could not be studied: test_vit" in page
    lines = (two.output / "study.csv").read_text().splitlines()
    assert lines[1].startswith("test_vit,")
    assert failed["failure"] in lines[1]


def test_a_process_that_dies_is_a_failure_too(spec: StudySpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optimizer_svc.study.process.COMMAND", ("sh", "-c", "kill -9 $$"))
    found = run_apart(spec.task(ARCHITECTURE), tmp_path, lambda _text, _fraction: None)
    assert found == {"failure": "its process was killed, most likely for want of memory"}


def test_a_study_without_any_result_still_has_a_page(spec: StudySpec, tmp_path: Path) -> None:
    empty = dataclasses.replace(spec, output=tmp_path)
    written = run_study(empty, runner=lambda *_: {"failure": "nothing works"}, now=lambda: NOW)
    assert written["scales"]["rows"] == []
    assert "nothing works" in (tmp_path / "study.html").read_text()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"architectures": ("resnet_18",)}, "no such architecture"),
        ({"architectures": (ARCHITECTURE, f"{ARCHITECTURE}.r160_in1k")}, "name each architecture once"),
        ({"checkpoints": {"test_vit": Path("x")}}, "be of an architecture of the study"),
        ({"weights": {ARCHITECTURE: Path("/nowhere")}, "checkpoints": {}}, "be files that exist"),
        ({"keep_macs": 1.0}, "keep_macs"),
        ({"budget_minutes": 0.0}, "budget_minutes"),
    ],
)
def test_what_could_never_work_is_refused_before_anything_runs(
    spec: StudySpec, change: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidInput, match=said):
        run_study(dataclasses.replace(spec, **change), runner=here)


def test_a_task_comes_back_from_its_file_as_it_was(spec: StudySpec) -> None:
    task = spec.task(ARCHITECTURE)
    assert Task.from_json(task.to_json()) == task
