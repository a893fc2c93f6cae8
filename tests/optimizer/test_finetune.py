from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from gramserve.errors import InvalidInput, Reason
from optimizer_svc.architecture import build_model
from optimizer_svc.checkpoint import load_checkpoint
from optimizer_svc.finetune import FinetuneProgress, FinetuneResult, finetune
from optimizer_svc.labels import format_labels
from optimizer_svc.spec import Stopped
from tests.optimizer.conftest import ARCHITECTURE, INPUT_PX, LABELS


def test_a_checkpoint_says_what_it_is_and_is_read_back_by_the_optimizer(finetuned: FinetuneResult) -> None:
    loaded = load_checkpoint(finetuned.output, ARCHITECTURE, LABELS)
    assert (loaded.input.px, loaded.input.mean) == (INPUT_PX, (0.5, 0.5, 0.5))
    with safe_open(str(finetuned.output), framework="pt") as file:
        metadata = json.loads(file.metadata()["gramserve"])
    assert metadata["labels"] == [label.name for label in LABELS]
    assert metadata["architecture"] == ARCHITECTURE


def test_every_epoch_is_in_the_history(finetuned: FinetuneResult) -> None:
    history = json.loads(finetuned.output.with_suffix(".history.json").read_text())
    assert [epoch["epoch"] for epoch in history["epochs"]] == [1, 2]
    assert history["best_epoch"] == finetuned.best_epoch
    best = max(epoch["val_accuracy"] for epoch in history["epochs"])
    assert finetuned.val_accuracy == pytest.approx(best)
    assert (finetuned.train_tiles, finetuned.val_tiles) == (120, 60)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_checkpoint(data: Path, finetuned: FinetuneResult, tmp_path: Path) -> None:
    again = finetune(
        data,
        architecture=ARCHITECTURE,
        output=tmp_path / "again.safetensors",
        labels=LABELS,
        epochs_unfrozen=2,
        input_px=INPUT_PX,
    )
    assert again.output.read_bytes() == finetuned.output.read_bytes()


@pytest.mark.slow
def test_pretrained_weights_give_the_backbone_and_a_new_head_is_trained_first(data: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    pretrained = build_model(ARCHITECTURE, 1000, INPUT_PX)
    torch.save(pretrained.state_dict(), tmp_path / "imagenet.pth")
    seen: list[FinetuneProgress] = []
    result = finetune(
        data,
        architecture=ARCHITECTURE,
        output=tmp_path / "c.safetensors",
        labels=LABELS,
        weights=tmp_path / "imagenet.pth",
        epochs_frozen=1,
        epochs_unfrozen=0,
        input_px=INPUT_PX,
        progress=seen.append,
    )
    assert [p.phase for p in seen] == ["frozen"]
    loaded = load_checkpoint(result.output, ARCHITECTURE, LABELS).model.state_dict()
    head = {"fc.weight", "fc.bias"}
    assert all(torch.equal(t, loaded[n]) for n, t in pretrained.state_dict().items() if n not in head)
    assert loaded["fc.weight"].shape[0] == len(LABELS)
    assert loaded["fc.weight"].abs().max() > 0


def test_the_order_of_the_outputs_comes_from_the_labels_file_of_the_data(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("train", "val", "groups.csv"):
        (folder / name).symlink_to(data / name)
    (folder / "labels.yaml").write_text(format_labels(LABELS[::-1]))
    given = finetune(
        folder, architecture=ARCHITECTURE, output=tmp_path / "c.safetensors", epochs_unfrozen=1, input_px=INPUT_PX
    )
    assert given.labels == tuple(label.name for label in LABELS[::-1])


def test_weights_of_another_architecture_are_refused(data: Path, tmp_path: Path) -> None:
    torch.save(build_model("test_efficientnet", 5, INPUT_PX).state_dict(), tmp_path / "other.pth")
    with pytest.raises(InvalidInput) as caught:
        finetune(data, architecture=ARCHITECTURE, output=tmp_path / "c.safetensors", weights=tmp_path / "other.pth")
    assert caught.value.reason == Reason.CHECKPOINT_MISMATCH


def test_a_checkpoint_that_cannot_be_written_is_refused_before_the_training(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    seen: list[FinetuneProgress] = []
    for output in (tmp_path, tmp_path / "file" / "c.safetensors", Path("/proc/c.safetensors")):
        with pytest.raises(OSError, match=str(output if output == tmp_path else output.parent)):
            finetune(
                data, architecture=ARCHITECTURE, output=output, labels=LABELS, epochs_unfrozen=1, progress=seen.append
            )
    assert not seen


def test_fine_tuning_that_is_stopped_leaves_no_checkpoint(data: Path, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        finetune(
            data, architecture=ARCHITECTURE, output=tmp_path / "c.safetensors", labels=LABELS, should_stop=lambda: True
        )
    assert not (tmp_path / "c.safetensors").exists()


@pytest.mark.slow
def test_a_network_of_another_architecture_learns_from_a_teacher(
    data: Path, finetuned: FinetuneResult, tmp_path: Path
) -> None:
    seen: list[FinetuneProgress] = []
    result = finetune(
        data,
        architecture="test_efficientnet",
        output=tmp_path / "student.safetensors",
        labels=LABELS,
        teacher=finetuned.output,
        epochs_unfrozen=1,
        input_px=40,  # not the size that the teacher wants
        progress=seen.append,
    )
    assert load_checkpoint(result.output, "test_efficientnet", LABELS).input.px == 40
    assert [p.epochs for p in seen] == [1]


def test_a_teacher_that_does_not_say_what_it_is_is_refused(data: Path, tmp_path: Path) -> None:
    torch.save(build_model(ARCHITECTURE, len(LABELS), INPUT_PX).state_dict(), tmp_path / "plain.pth")
    with pytest.raises(InvalidInput) as caught:
        finetune(
            data,
            architecture=ARCHITECTURE,
            output=tmp_path / "student.safetensors",
            labels=LABELS,
            teacher=tmp_path / "plain.pth",
            input_px=INPUT_PX,
        )
    assert caught.value.reason == Reason.CHECKPOINT_MISMATCH
