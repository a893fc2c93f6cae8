"""From nothing to a call in one go: fine-tune, optimize over gRPC, submit; all of it through the command line."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path

import pytest

from gramserve.samples import Sample, encode, write_image_folder, write_labels_yaml
from tests.e2e.running import GRAMSERVE, Up

ARCHITECTURE = "test_resnet"


async def gramserve(*words: str, expected: int = 0) -> str:
    """What the command printed."""
    done = await asyncio.to_thread(
        subprocess.run, [GRAMSERVE, *words], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == expected, f"{words[0]}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_checkpoint_is_made_optimized_promoted_and_serves(tmp_path: Path, store: str) -> None:
    tiles, labels, checkpoint = tmp_path / "tiles", tmp_path / "labels.yaml", tmp_path / "checkpoint.safetensors"
    write_image_folder(tiles, {"train": 8, "val": 4, "test": 4}, tile_px=96, image_format="jpg")
    write_labels_yaml(labels)
    words = ["--arch", ARCHITECTURE, "--labels", str(labels)]
    said = await gramserve(
        "finetune", str(tiles), *words, "--input-px", "64", "--epochs", "2", "--output", str(checkpoint)
    )
    assert "epoch 2/2" in said
    slide = tmp_path / "slide-1"
    slide.mkdir()
    for number in range(2):
        (slide / f"{number}.jpg").write_bytes(encode(Sample("GPR", number, 200, 150).render()))

    up = Up(tmp_path / "up", store=store)
    try:
        await up.ready()
        optimizer, gateway = ("--optimizer", up.address("optimizer")), ("--gateway", up.address("gateway"))
        words += ["--data", str(tiles), "--model", "gram", "--budget-minutes", "1", "--allow-unproved", "--promote"]
        said = await gramserve("optimize", str(checkpoint), *words, *optimizer, "--margin", "1", "--keep-macs", "1")
        assert "models/gram/versions/1" in said
        assert "serves as: production" in said
        out = tmp_path / "calls.jsonl"
        await gramserve("submit", str(slide), "--model", "gram", "--output", str(out), *gateway)
        (line,) = out.read_text().splitlines()
        result = json.loads(line)
        assert result["state"] == "STATE_SUCCEEDED"
        assert result["call"]["tileCount"] >= 2
        assert "production: 1" in await gramserve("models", "list", *gateway)
    finally:
        assert await up.stop() == 0
