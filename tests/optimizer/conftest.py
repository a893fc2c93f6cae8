"""A tiny world for the optimizer: synthetic tiles, their labels and a small network that was trained a little."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from gramserve.samples import LABEL_ROLES, write_image_folder
from gramserve.store.manifest import Label
from optimizer_svc.finetune import FinetuneResult, finetune

LABELS = tuple(Label.model_validate({"name": name, **role}) for name, role in LABEL_ROLES.items())
ARCHITECTURE = "test_resnet"
INPUT_PX = 32


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Torch with one thread: the networks are tiny, and threads that wait for each other are slow on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def labels() -> tuple[Label, ...]:
    return LABELS


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ImageFolder with train/ and val/ of the synthetic labels: 24 and 12 tiles of each class, 64 px."""
    folder = tmp_path_factory.mktemp("tiles")
    write_image_folder(folder, {"train": 24, "val": 12}, tile_px=64)
    return folder


@pytest.fixture(scope="session")
def finetuned(data: Path, tmp_path_factory: pytest.TempPathFactory) -> FinetuneResult:
    """A checkpoint that has seen the tiles for two epochs: poor, but a network like any other."""
    output = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    return finetune(data, architecture=ARCHITECTURE, output=output, labels=LABELS, epochs_unfrozen=2, input_px=INPUT_PX)
