"""The real job: a real checkpoint on its way to a published artifact, and checkpoints that must not get there."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from gramserve.client.archive import zip_folder
from gramserve.errors import Reason
from gramserve.rpc.status import from_status
from gramserve.runtime.artifact import load_artifact
from gramserve.store.manifest import Label
from optimizer_svc.process import JOB_COMMAND
from tests.optimizer_service.conftest import Bench, Caller, State, answer

LABELS = (Label(name="BACKGROUND", kind="background"), Label(name="GNR", kind="organism", gram="negative"))
COLOURS = {"BACKGROUND": (228, 225, 220), "GNR": (120, 60, 200)}
ARCHITECTURE = "test_resnet"
TILES = 48

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiles of two classes that differ in colour."""
    root = tmp_path_factory.mktemp("real")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for label, colour in COLOURS.items():
            place = root / "data" / split / label
            place.mkdir(parents=True)
            for i in range(TILES):
                tile = np.clip(np.array(colour) + rng.normal(0, 20, (32, 32, 3)), 0, 255).astype(np.uint8)
                cv2.imwrite(str(place / f"{i}.png"), tile)
    zip_folder(root / "data", root / "data.zip")
    return root


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> bytes:
    """A fine-tuned tiny model."""
    from optimizer_svc.finetune import finetune

    path = folder / "checkpoint.safetensors"
    finetune(
        folder / "data",
        architecture=ARCHITECTURE,
        output=path,
        labels=LABELS,
        epochs_frozen=0,
        epochs_unfrozen=10,
        input_px=32,
    )
    return path.read_bytes()


async def _create(caller: Caller, folder: Path, checkpoint: bytes, **settings: Any) -> Any:
    request = await caller.request(ARCHITECTURE)
    request.optimization.checkpoint.sha256 = (await caller.upload_whole(checkpoint)).sha256
    request.optimization.data.sha256 = (await caller.upload_whole((folder / "data.zip").read_bytes())).sha256
    for name, value in settings.items():
        setattr(request.optimization.settings, name, value)
    request.optimization.settings.budget.FromSeconds(20)
    return await answer(caller.stub.CreateOptimization(request))


async def test_a_checkpoint_becomes_a_promoted_artifact_that_runs(
    bench: Bench, folder: Path, checkpoint: bytes
) -> None:
    async with bench.service(command=JOB_COMMAND) as caller:
        created = await _create(
            caller, folder, checkpoint, margin=0.2, allow_unproved=True, promote=True, keep_macs=1.0
        )
        stages: list[str] = []
        done = created
        async for response in caller.watch(created.name):
            done = response.optimization
            if done.progress.stage not in {"", *stages}:
                stages.append(done.progress.stage)
    assert done.state == State.STATE_SUCCEEDED, done.error
    assert {"ingest", "package"} <= set(stages)
    version = done.model_version
    assert version.name == "models/gram/versions/1"
    assert list(version.aliases) == ["production"]
    assert version.architecture == ARCHITECTURE
    assert version.accuracy > 0.9
    assert version.size_bytes > 0
    assert version.images_per_second > 0
    assert b"<html" in await bench.store.get(f"{done.name}/report.html")
    _classify(bench, version.digest)


def _classify(bench: Bench, digest: str) -> None:
    """The artifact runs as a worker runs it."""
    folder = bench.folder / "store/models/gram/versions/1"
    loaded = load_artifact(lambda name: (folder / name).read_bytes(), (folder / "manifest.json").read_bytes(), digest)
    for label, colour in COLOURS.items():
        noise = np.random.default_rng(9).normal(0, 20, (32, 32, 3))  # a tile without any structure is blank
        field = np.clip(np.array(colour[::-1]) + noise, 0, 255).astype(np.uint8)
        call = loaded.classify([field]).call
        assert [finding.label for finding in call.findings] == ([] if label == "BACKGROUND" else [label])


class Malicious:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> Any:
        return (eval, ("__import__('pathlib').Path('/tmp/gramserve-was-here').touch()",))


async def test_a_checkpoint_that_cannot_be_used_fails_typed(bench: Bench, folder: Path) -> None:
    import torch

    unsafe, other = io.BytesIO(), io.BytesIO()
    torch.save({"state_dict": {"weight": Malicious()}}, unsafe)
    torch.save({"state_dict": {"weight": torch.zeros(3)}}, other)
    bad = {unsafe.getvalue(): Reason.CHECKPOINT_UNSAFE, other.getvalue(): Reason.CHECKPOINT_MISMATCH}
    async with bench.service(command=JOB_COMMAND) as caller:
        created = [(await _create(caller, folder, data), reason) for data, reason in bad.items()]
        for optimization, reason in created:
            done = await caller.ended(optimization.name, 120.0)
            assert done.state == State.STATE_FAILED
            assert from_status(done.error).reason is reason, done.error
    assert not Path("/tmp/gramserve-was-here").exists()


async def test_data_that_cannot_be_used_fails_typed(bench: Bench, folder: Path, checkpoint: bytes) -> None:
    leaving = io.BytesIO()
    with zipfile.ZipFile(leaving, "w") as archive:
        archive.writestr("../../outside/train/GNR/x.png", b"x")
    async with bench.service(command=JOB_COMMAND) as caller:
        for data in (b"no zip", leaving.getvalue()):
            request = await caller.request(ARCHITECTURE)
            request.optimization.checkpoint.sha256 = (await caller.upload_whole(checkpoint)).sha256
            request.optimization.data.sha256 = (await caller.upload_whole(data)).sha256
            created = await answer(caller.stub.CreateOptimization(request))
            done = await caller.ended(created.name)
            assert from_status(done.error).reason is Reason.INVALID_DATASET, done.error
