from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from optimizer_svc.finetune import FinetuneResult
from optimizer_svc.ingest import ingest
from optimizer_svc.spec import OptimizationSpec
from optimizer_svc.workspace import Kept, Workspace, content_key
from tests.optimizer.conftest import ARCHITECTURE, LABELS


def test_a_stage_is_made_once_for_its_input(tmp_path: Path) -> None:
    made = []

    def make() -> Kept:
        made.append(1)
        return Kept({"accuracy": 0.5}, {"model.onnx": b"weights"})

    first = Workspace(tmp_path).once("export", {"a": 1}, make)
    again = Workspace(tmp_path).once("export", {"a": 1}, make)
    assert first == again == Kept({"accuracy": 0.5}, {"model.onnx": b"weights"})
    assert len(made) == 1
    Workspace(tmp_path).once("export", {"a": 2}, make)
    Workspace(tmp_path).once("quantize", {"a": 1}, make)
    assert len(made) == 3


def test_a_stage_that_was_killed_half_way_is_made_again(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        workspace.once("export", {}, _killed)
    kept = workspace.once("export", {}, lambda: Kept({}, {"model.onnx": b"whole"}))
    (folder,) = tmp_path.iterdir()
    (folder / "done.json").unlink()
    (folder / "model.onnx").write_bytes(b"ha")
    assert workspace.once("export", {}, lambda: kept).files == {"model.onnx": b"whole"}


def _killed() -> Kept:
    raise KeyboardInterrupt


def test_a_key_does_not_depend_on_the_order_of_its_parts() -> None:
    assert content_key({"a": 1, "b": [1.5, "x"]}) == content_key({"b": [1.5, "x"], "a": 1})
    assert content_key({"a": 1}) != content_key({"a": 2})


def test_a_stage_whose_process_died_is_counted_and_one_that_failed_or_finished_is_not(tmp_path: Path) -> None:
    workspace, key = Workspace(tmp_path), {"a": 1}

    def dies() -> Kept:
        os._exit(7)

    for count in (1, 2):
        child = os.fork()
        if child == 0:
            workspace.once("stage", key, dies)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert workspace.begun("stage", key) == count
    with pytest.raises(ZeroDivisionError):
        workspace.once("stage", key, lambda: Kept({"x": 1 // 0}, {}))
    assert workspace.begun("stage", key) == 2
    assert workspace.once("stage", key, lambda: Kept({"x": 1}, {})).facts == {"x": 1}
    assert workspace.begun("other", key) == 0


def test_answers_that_are_kept_are_not_found_again_for_tiles_in_another_order(
    data: Path, finetuned: FinetuneResult, tmp_path: Path
) -> None:
    renamed = shutil.copytree(data, tmp_path / "tiles")
    first, second, *_ = sorted((renamed / "val" / LABELS[1].name).iterdir())
    first.rename(tmp_path / "aside")
    second.rename(first)
    (tmp_path / "aside").rename(second)
    spec = OptimizationSpec(finetuned.output, ARCHITECTURE, LABELS, data, "m")
    before, after = ingest(spec), ingest(replace(spec, data=renamed))
    assert before.splits.val.fingerprint == after.splits.val.fingerprint
    assert not np.array_equal(before.val.tiles, after.val.tiles)
    assert before.identity != after.identity
