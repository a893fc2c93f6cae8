"""Children by the CPUs that this process may really use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from inference_svc.cpus import usable_cpus

CPUS = len(os.sched_getaffinity(0))


@pytest.fixture(autouse=True)
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


def _cgroup(folder: Path, own: str, **files: str) -> tuple[Path, Path]:
    (folder / "own").write_text(own)
    for name, text in files.items():
        path = folder / "fs" / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "fs", folder / "own"


def test_without_limits_every_cpu_of_the_affinity_counts(tmp_path: Path) -> None:
    assert usable_cpus(*_cgroup(tmp_path, "0::/\n", cpu_dot_max="max 100000\n")) == 8


def test_a_quota_of_version_2_counts_rounded_up(tmp_path: Path) -> None:
    assert usable_cpus(*_cgroup(tmp_path, "0::/pod/box\n", pod__box__cpu_dot_max="150000 100000\n")) == 2


def test_a_quota_further_up_counts(tmp_path: Path) -> None:
    assert usable_cpus(*_cgroup(tmp_path, "0::/pod/box\n", pod__cpu_dot_max="300000 100000\n")) == 3


def test_a_quota_of_version_1_counts(tmp_path: Path) -> None:
    files = {"cpu__box__cpu_dot_cfs_quota_us": "50000\n", "cpu__box__cpu_dot_cfs_period_us": "100000\n"}
    assert usable_cpus(*_cgroup(tmp_path, "3:memory:/x\n1:cpu:/box\n", **files)) == 1


def test_without_cgroups_the_affinity_counts(tmp_path: Path) -> None:
    assert usable_cpus(tmp_path / "none", tmp_path / "none") == 8
