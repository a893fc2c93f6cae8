"""Hostile checkpoints, archives, labels and manifests: a typed refusal, little time and memory, and nothing runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.attacks.checkpoints import RAN, make
from tests.inference.bench import ROOT

MOST_S, MOST_MIB = 10.0, 600.0
TYPED = {
    ".pth": {"CHECKPOINT_UNSAFE", "CHECKPOINT_UNREADABLE"},
    ".safetensors": {"CHECKPOINT_UNREADABLE"},
    ".yaml": {"INVALID_LABELS"},
    ".json": {"ARTIFACT_CORRUPT"},
    ".zip": {"INVALID_DATASET"},
}
UNSAFE = {
    "pickle.pth", "zip with a pickle that runs.pth", "zip with a system call.pth",
    "zip with a built-in.pth", "zip with torch's own loader.pth", "zip with torch's own hub.pth",
}  # fmt: skip


def test_each_is_refused_by_name_in_little_time_and_memory_and_nothing_in_it_runs(tmp_path: Path) -> None:
    make(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "tests.attacks.checkpoints", str(tmp_path)],
        capture_output=True, text=True, timeout=200, cwd=ROOT, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert len(found) > 35
    wrong = {name: how for name, how in found.items() if how[0] not in TYPED[Path(name).suffix]}
    assert wrong == {}
    assert {name for name in UNSAFE if found[name][0] != "CHECKPOINT_UNSAFE"} == set()
    assert {name: how for name, how in found.items() if how[1] > MOST_S or how[2] > MOST_MIB} == {}
    assert not (tmp_path / RAN).exists()
    assert not list(tmp_path.parent.rglob("*escaped*"))
