"""The slides of a benchmark: synthetic fields as JPEG files, drawn once per run."""

from __future__ import annotations

from pathlib import Path

from gramserve import samples


def draw(folder: Path, count: int, edge_px: int) -> list[Path]:
    """`count` different JPEG fields of `edge_px` x `edge_px` pixels, quality 90."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for seed in range(count):
        label = samples.LABELS[seed % len(samples.LABELS)]
        pixels = samples.Sample(label, seed, edge_px, edge_px).render()
        path = folder / f"{seed:04d}.jpg"
        path.write_bytes(samples.encode(pixels, ".jpg"))
        paths.append(path)
    return paths
