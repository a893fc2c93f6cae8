from __future__ import annotations

import argparse
import json
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from gramserve.errors import InvalidInput, Reason
from optimizer_svc.architecture import build_model
from optimizer_svc.checkpoint import load_checkpoint
from optimizer_svc.weights import METADATA_KEY, file_sha256
from tests.optimizer.conftest import ARCHITECTURE, LABELS


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return build_model(ARCHITECTURE, len(LABELS), 32).state_dict()


def refused(path: Path, architecture: str = ARCHITECTURE) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        load_checkpoint(path, architecture, LABELS)
    assert str(path) not in caught.value.message
    return caught.value


def same(model: nn.Module, state: dict[str, Tensor]) -> bool:
    return all(torch.equal(t, state[name]) for name, t in model.state_dict().items())


def with_metadata(path: Path, state: dict[str, Tensor], **metadata: Any) -> Path:
    save_file(state, path, metadata={METADATA_KEY: json.dumps(metadata)})
    return path


def test_safetensors_are_loaded(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file(state, tmp_path / "c.safetensors")
    loaded = load_checkpoint(tmp_path / "c.safetensors", ARCHITECTURE, LABELS)
    assert same(loaded.model, state)
    assert not loaded.model.training
    assert loaded.sha256 == file_sha256(tmp_path / "c.safetensors")
    assert loaded.fp32_bytes == 4 * sum(p.numel() for p in loaded.model.parameters())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        OrderedDict,
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model": s},
        lambda s: {"state_dict": {f"module.{n}": t for n, t in s.items()}},
        lambda s: {"state_dict": {f"_orig_mod.module.{n}": t for n, t in s.items()}},
        lambda s: {"state_dict": {f"model.{n}": t for n, t in s.items()}},
    ],
    ids=["plain", "ordered", "state_dict", "model", "data parallel", "compiled", "lightning"],
)
def test_the_usual_ways_to_save_a_model_are_known(tmp_path: Path, state: dict[str, Tensor], wrap: Any) -> None:
    torch.save(wrap(state), tmp_path / "c.pth.tar")
    loaded = load_checkpoint(tmp_path / "c.pth.tar", ARCHITECTURE, LABELS)
    assert same(loaded.model, state)
    assert loaded.notes == ()


def test_a_checkpoint_of_timms_train_script_is_loaded_by_its_averaged_weights(
    tmp_path: Path, state: dict[str, Tensor]
) -> None:
    plain = {name: torch.zeros_like(t) for name, t in state.items()}
    content = {
        "epoch": 7,
        "arch": ARCHITECTURE,
        "state_dict": plain,
        "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "version": 2,
        "args": argparse.Namespace(model=ARCHITECTURE, lr=0.1, opt_betas=None),
        "amp_scaler": {"scale": 65536.0},
        "state_dict_ema": state,
        "metric": 91.5,
    }
    torch.save(content, tmp_path / "last.pth.tar")
    loaded = load_checkpoint(tmp_path / "last.pth.tar", ARCHITECTURE, LABELS)
    assert same(loaded.model, state)
    assert "averaged (EMA)" in loaded.notes[0]


class Evil:
    """A pickle of this runs a command when it is loaded the usual way."""

    def __init__(self, flag: Path) -> None:
        self._flag = flag

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self._flag}",)


def test_a_malicious_torch_file_is_refused_and_nothing_in_it_runs(tmp_path: Path, state: dict[str, Tensor]) -> None:
    flag = tmp_path / "was-here"
    torch.save({"state_dict": state, "extra": Evil(flag)}, tmp_path / "evil.pth")
    assert refused(tmp_path / "evil.pth").reason == Reason.CHECKPOINT_UNSAFE
    assert not flag.exists()


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_an_old_pickle_is_refused_and_nothing_in_it_runs(tmp_path: Path, protocol: int) -> None:
    flag = tmp_path / "was-here"
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Evil(flag), protocol))
    assert refused(tmp_path / "evil.pth").reason in {Reason.CHECKPOINT_UNSAFE, Reason.CHECKPOINT_UNREADABLE}
    assert not flag.exists()


def test_an_honest_old_pickle_is_refused_too(tmp_path: Path, state: dict[str, Tensor]) -> None:
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    error = refused(tmp_path / "old.pth")
    assert error.reason == Reason.CHECKPOINT_UNSAFE
    assert "safetensors" in error.message


def test_a_whole_pickled_model_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "model.pth")
    assert refused(tmp_path / "model.pth").reason == Reason.CHECKPOINT_UNSAFE


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04", b"\x10\0\0\0\0\0\0\0{", b"\xff" * 64])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c").write_bytes(content)
    assert refused(tmp_path / "c").reason == Reason.CHECKPOINT_UNREADABLE


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path / "nothing").reason == Reason.CHECKPOINT_UNREADABLE


@pytest.mark.parametrize("name", ["c.safetensors", "c.pth"])
def test_a_truncated_checkpoint_is_refused(tmp_path: Path, state: dict[str, Tensor], name: str) -> None:
    path = tmp_path / name
    (save_file if path.suffix == ".safetensors" else torch.save)(state, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert refused(path).reason == Reason.CHECKPOINT_UNREADABLE


def test_weights_that_are_not_numbers_are_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    broken = {**state, "fc.bias": torch.full((5,), float("nan"))}
    torch.save(broken, tmp_path / "c.pth")
    error = refused(tmp_path / "c.pth")
    assert (error.reason, "finite" in error.message) == (Reason.CHECKPOINT_UNREADABLE, True)


def test_a_wrong_number_of_labels_names_both_numbers(tmp_path: Path) -> None:
    torch.save(build_model(ARCHITECTURE, 7, 32).state_dict(), tmp_path / "c.pth")
    error = refused(tmp_path / "c.pth")
    assert error.reason == Reason.CHECKPOINT_MISMATCH
    assert error.metadata == {"checkpoint_classes": "7", "labels": "5"}
    assert "7 classes" in error.message


def test_a_wrong_architecture_names_a_few_weights(tmp_path: Path, state: dict[str, Tensor]) -> None:
    torch.save(state, tmp_path / "c.pth")
    error = refused(tmp_path / "c.pth", "test_efficientnet")
    assert error.reason == Reason.CHECKPOINT_MISMATCH
    assert "missing (such as" in error.message
    assert "unexpected (such as" in error.message


def test_an_unknown_architecture_suggests_close_names(tmp_path: Path) -> None:
    error = refused(tmp_path / "c.pth", "mobilenetv2_10")
    assert error.reason == Reason.UNKNOWN_ARCHITECTURE
    assert "mobilenetv2_100" in error.message


@pytest.mark.parametrize("name", ["hf-hub:someone/model", "hf_hub:x", "local-dir:/etc", "", "../resnet18"])
def test_an_architecture_that_would_be_fetched_from_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    assert refused(tmp_path / "c.pth", name).reason == Reason.UNKNOWN_ARCHITECTURE


def test_metadata_of_another_architecture_is_believed(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = with_metadata(tmp_path / "c.safetensors", state, architecture="resnet18")
    error = refused(path)
    assert error.reason == Reason.CHECKPOINT_MISMATCH
    assert "resnet18" in error.message


def test_labels_in_another_order_than_the_checkpoint_says_are_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    names = [label.name for label in LABELS]
    path = with_metadata(tmp_path / "c.safetensors", state, labels=names[::-1])
    assert refused(path).reason == Reason.CHECKPOINT_MISMATCH
    assert load_checkpoint(
        with_metadata(tmp_path / "d.safetensors", state, labels=names), ARCHITECTURE, LABELS
    ).parameters


def test_the_input_is_taken_from_the_caller_then_the_file_then_timm(tmp_path: Path, state: dict[str, Tensor]) -> None:
    plain = tmp_path / "plain.safetensors"
    save_file(state, plain)
    assert load_checkpoint(plain, ARCHITECTURE, LABELS).input.px == 160
    said = with_metadata(tmp_path / "c.safetensors", state, input_px=64, mean=[0.1, 0.2, 0.3], std=[1, 1, 1])
    assert load_checkpoint(said, ARCHITECTURE, LABELS).input.mean == (0.1, 0.2, 0.3)
    told = load_checkpoint(said, ARCHITECTURE, LABELS, input_px=48, std=(0.5, 0.5, 0.5)).input
    assert (told.px, told.mean, told.std) == (48, (0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
