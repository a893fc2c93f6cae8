"""The memory of children by what this process may really use."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference_svc.memory import LEAST_BYTES, PARENT_BYTES, child_memory

GIB = 2**30


def _given(folder: Path, own: str = "0::/\n", *, available: int | None = None, **files: str) -> dict[str, Path]:
    (folder / "own").write_text(own)
    (folder / "meminfo").write_text(
        "MemTotal: 99999999 kB\n" + (f"MemAvailable: {available // 1024} kB\n" if available is not None else "")
    )
    for name, text in files.items():
        path = folder / "fs" / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return {"cgroups": folder / "fs", "own": folder / "own", "meminfo": folder / "meminfo"}


def test_with_plenty_the_setting_counts(tmp_path: Path) -> None:
    assert child_memory(3 * GIB, 2, **_given(tmp_path, available=64 * GIB, memory_dot_max="max\n")) == 3 * GIB


def test_what_is_available_is_shared_among_the_children(tmp_path: Path) -> None:
    assert child_memory(3 * GIB, 4, **_given(tmp_path, available=8 * GIB)) == (8 * GIB - PARENT_BYTES) // 4


@pytest.mark.parametrize(
    ("own", "files"),
    [
        ("0::/\n", {"memory_dot_max": f"{4 * GIB}\n"}),
        ("0::/pod/box\n", {"pod__memory_dot_max": f"{4 * GIB}\n", "pod__box__memory_dot_max": "max\n"}),
        ("4:memory:/box\n1:cpu:/x\n", {"memory__box__memory_dot_limit_in_bytes": f"{4 * GIB}\n"}),
    ],
    ids=["version 2", "further up", "version 1"],
)
def test_a_limit_of_a_cgroup_counts(tmp_path: Path, own: str, files: dict[str, str]) -> None:
    given = _given(tmp_path, own, available=64 * GIB, **files)
    assert child_memory(3 * GIB, 2, **given) == (4 * GIB - PARENT_BYTES) // 2


def test_no_limit_in_version_1_is_a_huge_number(tmp_path: Path) -> None:
    given = _given(tmp_path, "4:memory:/\n", memory__memory_dot_limit_in_bytes="9223372036854771712\n")
    assert child_memory(3 * GIB, 2, **given) == 3 * GIB


def test_a_child_can_load_a_model_however_little_there_is(tmp_path: Path) -> None:
    assert child_memory(3 * GIB, 8, **_given(tmp_path, available=GIB)) == LEAST_BYTES


def test_a_setting_below_that_stays_as_it_is(tmp_path: Path) -> None:
    assert child_memory(GIB // 4, 8, **_given(tmp_path, available=GIB)) == GIB // 4


def test_where_nothing_can_be_read_the_setting_counts(tmp_path: Path) -> None:
    missing = tmp_path / "none"
    assert child_memory(3 * GIB, 2, cgroups=missing, own=missing, meminfo=missing) == 3 * GIB
