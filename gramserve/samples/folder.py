"""A labelled ImageFolder of synthetic tiles: train/, val/ and test/, with the field each tile was cut from."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from gramserve.samples.field import Field
from gramserve.samples.labels import BACKGROUND, LABELS, ORGANISMS
from gramserve.samples.slides import PX_PER_UM, field_of, seeded
from gramserve.samples.style import draw_style

# A tile counts as its class when so many bacteria lie on it; with fewer, not even a person could name the arrangement.
_CELLS_NEEDED = {"GNR": 1, "GPR": 1, "GPC_PAIRS_CHAINS": 2, "GPC_CLUSTERS": 5}


def write_image_folder(
    out_dir: Path, per_class: Mapping[str, int], *, tile_px: int = 160, seed: int = 0, image_format: str = "png"
) -> int:
    """Writes `per_class[split]` tiles of each label to out_dir/split/LABEL/ and out_dir/groups.csv; returns how many.

    `per_class` is for example {"train": 100, "val": 30, "test": 30}. Tiles are `tile_px` square, as `png` or `jpg`, cut
    from fields of two by two tiles; groups.csv (columns path, group) names the field of each, and no field is in two
    splits.
    """
    rows: list[tuple[str, str]] = []
    for split, wanted in per_class.items():
        for label in LABELS:
            folder = out_dir / split / label
            folder.mkdir(parents=True, exist_ok=True)
            tiles = _tiles(f"{split}/{label}", label, seed, tile_px)
            for number, (group, tile) in zip(range(wanted), tiles, strict=False):
                path = folder / f"{number:05d}.{image_format}"
                path.write_bytes(encode(tile, image_format))
                rows.append((path.relative_to(out_dir).as_posix(), f"{split}-{label}-{group:05d}"))
    with (out_dir / "groups.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "group"), *rows])
    return len(rows)


def encode(image: NDArray[np.uint8], image_format: str = "jpg") -> bytes:
    """RGB uint8 [H, W, 3] as the bytes of a `png`, `jpg` (quality 92) or `tif` file."""
    parameters = [cv2.IMWRITE_JPEG_QUALITY, 92] if image_format == "jpg" else []
    done, data = cv2.imencode(f".{image_format}", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), parameters)
    if not done:
        raise ValueError(f"cannot write {image_format}")
    return data.tobytes()


def _tiles(name: str, label: str, seed: int, tile_px: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Endless (field number, tile) of one class."""
    group = 0
    while True:
        rng = seeded(seed, f"{name}/{group}")
        organisms = [label]
        if label == BACKGROUND:
            # Half of the empty tiles lie beside bacteria, as they do on a slide.
            organisms = [str(rng.choice(ORGANISMS))] if rng.random() < 0.5 else []
        field = field_of(rng, draw_style(rng, PX_PER_UM), organisms, 2 * tile_px, 2 * tile_px)
        for y in (0, tile_px):
            for x in (0, tile_px):
                if _shows(field, label, x, y, tile_px):
                    yield group, field.image[y : y + tile_px, x : x + tile_px]
        group += 1


def _shows(field: Field, label: str, x: int, y: int, size: int) -> bool:
    """True when the tile at (x, y) is a fair example of `label`."""
    if label == BACKGROUND:
        return not any(
            x - c.radius < c.x < x + size + c.radius and y - c.radius < c.y < y + size + c.radius for c in field.cells
        )
    inside = [
        c
        for c in field.cells
        if x + c.radius / 2 < c.x < x + size - c.radius / 2 and y + c.radius / 2 < c.y < y + size - c.radius / 2
    ]
    return len(inside) >= _CELLS_NEEDED[label]
