"""What a benchmark run leaves behind: one JSON file with the machine's description, and tables to read."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

PACKAGES = ("grpcio", "numpy", "obstore", "onnxruntime", "openvino", "opencv-python-headless", "protobuf", "redis")


def machine(packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """CPU, cores, memory and versions: what the figures depend on, without a name of the host."""
    cpu = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    model = next((line.split(":", 1)[1].strip() for line in cpu.splitlines() if line.startswith("model name")), "")
    flags = next((line.split(":", 1)[1].split() for line in cpu.splitlines() if line.startswith("flags")), [])
    return {
        "cpu": model or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "vector": [flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx_vnni") if flag in flags],
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in packages},
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest of repeated measurements."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def write(name: str, figures: Mapping[str, Any], folder: Path, *, packages: Sequence[str] = PACKAGES) -> Path:
    """Write the figures of one run to `folder`/`name`.json."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    content = {"measured": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine(packages), **figures}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return path


def show(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print one table."""
    table = Table(*head, title=title, title_justify="left", title_style="bold")
    for row in rows:
        table.add_row(*row)
    Console(width=110).print(table)
