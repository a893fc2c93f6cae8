"""The picture of a soak: memory of each role over time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from tests.soak.memory import Sample


def draw(samples: Sequence[Sample], path: Path) -> None:
    """A panel for each role and a line for each life of a process, as SVG."""
    roles = sorted({sample.role for sample in samples})
    if not roles:
        return
    with mpl.rc_context({"svg.hashsalt": "gramserve", "font.size": 9}):
        figure = Figure(figsize=(10, 2.2 * len(roles)), layout="constrained")
        for axis, role in zip(figure.subplots(len(roles), 1, squeeze=False).ravel(), roles, strict=True):
            lives: dict[str, list[Sample]] = defaultdict(list)
            for sample in samples:
                if sample.role == role:
                    lives[sample.life].append(sample)
            for life, mine in lives.items():
                wide = 1.6 if life.endswith("witness") else 0.7
                axis.plot([s.t_s / 60 for s in mine], [s.mib for s in mine], linewidth=wide)
            axis.set_title(f"{role}: MiB that belong to no file, by minutes", loc="left")
            axis.set_ylim(bottom=0)
        figure.savefig(path, format="svg", metadata={"Date": None})
