from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gramserve.calls import Outcome
from gramserve.errors import InvalidInput, NotAccepted, Reason
from gramserve.images.decode import decode
from gramserve.images.limits import ImageLimits
from gramserve.runtime.artifact import load_artifact
from gramserve.runtime.engines import open_engine
from gramserve.runtime.tally import Reference
from gramserve.store.manifest import ArtifactFile, ArtifactManifest, manifest_digest
from optimizer_svc.finetune import FinetuneResult
from optimizer_svc.optimize import run_optimization
from optimizer_svc.package import golden_tiles
from optimizer_svc.spec import OptimizationResult, OptimizationSpec, Progress, Stage, Stopped
from tests.optimizer.conftest import ARCHITECTURE, LABELS

pytestmark = pytest.mark.slow

RECIPE = "int8_channel_core"


@dataclasses.dataclass
class Finished:
    spec: OptimizationSpec
    workspace: Path
    result: OptimizationResult
    progress: list[Progress]


@pytest.fixture(scope="module")
def spec(data: Path, finetuned: FinetuneResult) -> OptimizationSpec:
    return OptimizationSpec(
        checkpoint=finetuned.output,
        architecture=ARCHITECTURE,
        labels=LABELS,
        data=data,
        model="gram-test",
        margin=1.0,
        recall_margin=1.0,
        allow_unproved=True,
        recipes=(RECIPE,),
        prune_macs=0.5,
        distill_epochs=2,
        budget_minutes=5,
    )


@pytest.fixture(scope="module")
def finished(spec: OptimizationSpec, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    workspace, progress = tmp_path_factory.mktemp("workspace"), []
    result = run_optimization(spec, workspace, progress.append)
    return Finished(spec, workspace, result, progress)


def published(result: OptimizationResult) -> ArtifactManifest:
    files = {n: ArtifactFile(sha256=hashlib.sha256(d).hexdigest(), bytes=len(d)) for n, d in result.files.items()}
    return ArtifactManifest(**dict(result.manifest), model="gram-test", version=1, files=files)


def test_an_artifact_has_all_its_files_and_loads_as_the_worker_loads_it(finished: Finished) -> None:
    result = finished.result
    assert set(result.files) == {"model.onnx", "golden.npz", "report.json", "report.html", "card.md"}
    manifest = published(result).to_json()
    loaded = load_artifact(result.files.__getitem__, manifest, manifest_digest(manifest))
    tile = next((finished.spec.data / "val" / "GNR").iterdir())
    classified = loaded.classify([decode(tile.read_bytes(), ImageLimits())])
    assert classified.tiles == 1
    # What workers compare the tiles that they see with.
    reference = Reference.of(loaded.manifest.evaluation, loaded.manifest.labels)
    assert set(reference.labels) == {label.name for label in loaded.manifest.labels}
    assert sum(reference.labels.values()) == pytest.approx(1)
    assert sum(reference.bands.values()) == pytest.approx(1)
    assert classified.call.outcome in set(Outcome)


def test_the_manifest_says_where_the_artifact_comes_from(finished: Finished) -> None:
    manifest, report = finished.result.manifest, finished.result.report
    assert manifest.labels == LABELS
    assert manifest.source.checkpoint_sha256 == hashlib.sha256(finished.spec.checkpoint.read_bytes()).hexdigest()
    assert manifest.source.macs == report["checkpoint"]["macs"] > 0
    assert set(manifest.split["fingerprints"]) == {"train", "val"}
    assert manifest.packages["torch"]
    assert manifest.evaluation["accepted"] is True
    assert manifest.preprocessing.tiling == "grid"
    assert bool(manifest.widths) == (report["chosen"]["network"] != "original")


def test_every_network_was_tried_in_fp32_and_in_every_recipe_on_every_engine(finished: Finished) -> None:
    names = {c["name"] for c in finished.result.report["candidates"]}
    networks, recipes, engines = ("original", "pruned 50%"), ("fp32", RECIPE), ("onnxruntime", "openvino")
    expected = {f"{n} {r} {e}" for n in networks for r in recipes for e in engines}
    assert names >= expected
    # Where int8 fell short, the same recipe with its worst layers left in fp32 is tried too.
    assert all(re.search(rf" {RECIPE}\+\d+fp32 ", name) for name in names - expected)


def test_every_trial_was_told_while_the_search_went_on(finished: Finished) -> None:
    told = {row.name: row for progress in finished.progress for row in progress.trials}
    assert set(told) == {c["name"] for c in finished.result.report["candidates"]}
    assert {row.state for row in told.values()} <= {"ACCEPTED", "REFUSED", "DROPPED"}
    chosen = told[finished.result.report["chosen"]["name"]]
    assert chosen.state == "ACCEPTED"
    assert chosen.size_bytes == finished.result.summary["artifact_bytes"]


def test_an_artifact_names_the_other_engines_that_were_accepted_with_the_same_file(finished: Finished) -> None:
    manifest, report = finished.result.manifest, finished.result.report
    chosen = report["chosen"]
    same = [c for c in report["candidates"] if (c["network"], c["recipe"]) == (chosen["network"], chosen["recipe"])]
    assert {c["engine"]["name"] for c in same} == {"onnxruntime", "openvino"}
    others = {c["engine"]["name"] for c in same if c["accepted"]} - {manifest.engine.name}
    assert {other.name for other in manifest.alternatives} <= others


def test_the_threshold_for_review_is_the_one_that_the_report_explains(finished: Finished) -> None:
    review = finished.result.report["review"]
    assert finished.result.manifest.aggregation.review_probability == review["overall"]["probability"]


def test_the_chosen_candidate_is_accepted_and_the_fastest_within_its_interval(finished: Finished) -> None:
    report = finished.result.report
    chosen = report["chosen"]
    accepted = [c for c in report["candidates"] if c["accepted"]]
    assert chosen["accepted"]
    assert chosen["images_per_s_high"] >= max(c["images_per_s"] for c in accepted) * 0.999


def test_what_was_measured_is_what_the_artifact_answers(finished: Finished) -> None:
    result = finished.result
    engine = open_engine(result.files["model.onnx"], result.manifest.engine)
    with np.load(io.BytesIO(result.files["golden.npz"])) as golden:
        assert np.allclose(engine.run(golden["tiles"][:8]), golden["logits"][:8], atol=float(golden["tolerance"]))
    assert len(result.files["model.onnx"]) == result.summary["artifact_bytes"]
    assert json.loads(result.files["report.json"])["headline"] == result.summary


def test_golden_vectors_hold_no_pixel_of_the_data(finished: Finished) -> None:
    with np.load(io.BytesIO(finished.result.files["golden.npz"])) as golden:
        tiles = golden["tiles"]
    assert tiles.shape[1:] == (32, 32, 3)
    assert np.array_equal(tiles, golden_tiles(32))


def test_only_the_page_shows_tiles_and_only_those_that_are_called_wrongly(finished: Finished) -> None:
    files, report = finished.result.files, finished.result.report
    shown = files["report.html"].count(b"data:image/jpeg;base64,")
    assert (
        shown
        == len(report["errors"])
        == sum(map(sum, report["confusion"]["artifact"]))
        - sum(row[i] for i, row in enumerate(report["confusion"]["artifact"]))
    )
    for name in ("report.json", "card.md"):
        assert b"base64" not in files[name]
    assert len(files["report.json"]) < 200_000


def test_the_manifest_has_the_review_threshold_that_was_found(finished: Finished) -> None:
    review = finished.result.report["review"]
    aggregation = finished.result.manifest.aggregation
    assert aggregation.review_probability == review["overall"]["probability"]
    assert aggregation.review_by_specimen == {}


def test_neither_report_nor_manifest_names_files_or_folders(finished: Finished) -> None:
    said = b"".join(finished.result.files[name] for name in ("report.json", "report.html", "card.md"))
    said += published(finished.result).to_json()
    for word in (str(finished.spec.data), str(finished.workspace), ".png", finished.spec.checkpoint.name, "/tmp"):
        assert word.encode() not in said


def test_progress_goes_through_all_stages_and_never_back(finished: Finished) -> None:
    fractions = [p.fraction for p in finished.progress]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert [stage for stage in Stage if stage in {p.stage for p in finished.progress}] == list(Stage)


def test_a_second_run_finds_every_stage_done_and_gives_the_same_artifact(finished: Finished) -> None:
    progress: list[Progress] = []
    again = run_optimization(finished.spec, finished.workspace, progress.append)
    assert not any("epoch" in p.message for p in progress)
    assert again.files["model.onnx"] == finished.result.files["model.onnx"]
    assert again.summary == finished.result.summary


def stop_at(stage: Stage) -> tuple[list[Progress], Callable[[], bool]]:
    seen: list[Progress] = []
    return seen, lambda: any(p.stage == stage for p in seen)


def test_a_stopped_run_goes_on_after_its_last_finished_stage(spec: OptimizationSpec, tmp_path: Path) -> None:
    spec = dataclasses.replace(spec, distill_epochs=1)
    runs = []
    for _ in range(2):
        seen, should_stop = stop_at(Stage.EXPORT)
        with pytest.raises(Stopped):
            run_optimization(spec, tmp_path, seen.append, should_stop=should_stop)
        runs.append(any("Distillation" in p.message for p in seen))
    assert runs == [True, False]


def test_the_time_of_a_run_that_was_stopped_counts(spec: OptimizationSpec, tmp_path: Path) -> None:
    seconds = iter(range(10_000))
    seen, should_stop = stop_at(Stage.BASELINE)
    with pytest.raises(Stopped):
        run_optimization(spec, tmp_path, seen.append, lambda: float(next(seconds)), should_stop)
    again: list[Progress] = []
    with pytest.raises(Stopped):
        run_optimization(spec, tmp_path, again.append, lambda: 0.0, lambda: bool(again))
    assert again[0].elapsed_s == pytest.approx(seen[-1].elapsed_s, abs=1)


def test_too_few_tiles_to_prove_the_margin_is_said_and_not_accepted(finished: Finished) -> None:
    strict = dataclasses.replace(finished.spec, margin=0.01, recall_margin=0.05, allow_unproved=False)
    with pytest.raises(NotAccepted) as caught:
        run_optimization(strict, finished.workspace, lambda _p: None)
    assert caught.value.reason == Reason.NOT_ACCEPTED
    assert caught.value.metadata["tiles"] == "60"
    assert int(caught.value.metadata["tiles_needed"]) >= 381
    page = (finished.workspace / "report.html").read_text()
    assert "Nothing was accepted" in page


def test_an_override_is_recorded_in_artifact_and_report(finished: Finished) -> None:
    waived = dataclasses.replace(finished.spec, margin=0.01, recall_margin=0.05, allow_unproved=True)
    result = run_optimization(waived, finished.workspace, lambda _p: None)
    assert (result.manifest.evaluation["proved"], result.manifest.evaluation["allow_unproved"]) == (False, True)
    assert b"Accepted, but not proved" in result.files["report.html"]
    assert b"Not proved." in result.files["card.md"]


def test_without_pruning_only_the_original_network_is_tried(finished: Finished) -> None:
    plain = dataclasses.replace(finished.spec, prune_macs=1.0)
    report = run_optimization(plain, finished.workspace, lambda _p: None).report
    assert {c["network"] for c in report["candidates"]} == {"original"}
    assert report["pruning"]["skipped"] == "pruning was not asked for"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("margin", 0.0),
        ("margin", float("nan")),
        ("prune_macs", -1.0),
        ("budget_minutes", 0.0),
        ("input_px", 3),
        ("seed", -1),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_by_name(
    spec: OptimizationSpec, tmp_path: Path, field: str, value: float
) -> None:
    with pytest.raises(InvalidInput) as caught:
        run_optimization(dataclasses.replace(spec, **{field: value}), tmp_path, lambda _p: None)
    assert [name for name, _ in caught.value.violations] == [field]


def test_a_recipe_that_does_not_exist_is_refused_at_once(spec: OptimizationSpec, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no recipe int3"):
        run_optimization(dataclasses.replace(spec, recipes=("int3",)), tmp_path, lambda _p: None)
