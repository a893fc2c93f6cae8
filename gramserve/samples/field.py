"""One synthetic field of a Gram-stained slide: light through a stained smear, by Beer-Lambert, with known truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from gramserve.samples.organisms import Canvas, Cell, draw_group
from gramserve.samples.style import Style

_FULL_DENSITY = 200.0  # canvas value of density 1


@dataclass(frozen=True, slots=True)
class Field:
    """A rendered field: uint8 RGB [height, width, 3] and every bacterium on it."""

    image: NDArray[np.uint8]
    cells: tuple[Cell, ...]


def render_field(
    rng: np.random.Generator, style: Style, groups: Sequence[tuple[str, float, float]], width: int, height: int
) -> Field:
    """Renders a field of `width` x `height` pixels with one group of bacteria per (label, x, y)."""
    violet = np.zeros((height, width), np.uint8)
    pink = np.zeros((height, width), np.uint8)
    debris = np.zeros((height, width), np.uint8)
    _draw_host_cells(debris, rng, style)
    _draw_fibrin(debris, rng, style)
    _draw_precipitate(violet, rng, style)
    cells: list[Cell] = []
    for label, x, y in groups:
        stain, density = (pink, rng.uniform(0.75, 1.1)) if label == "GNR" else (violet, rng.uniform(0.8, 1.15))
        cells += draw_group(stain, rng, label, x, y, style.px_per_um, density)
    return Field(_expose(rng, style, violet, pink, debris), tuple(cells))


def _expose(rng: np.random.Generator, style: Style, violet: Canvas, pink: Canvas, debris: Canvas) -> NDArray[np.uint8]:
    """Densities of three stains -> the picture: absorbance, uneven light, focus and sensor noise."""
    height, width = violet.shape
    blur = style.blur_px
    absorbance = np.zeros((height, width, 3), np.float32)
    # Debris lies thicker than bacteria and is never quite in focus.
    for canvas, colour, sigma in (
        (violet, style.violet, blur),
        (pink, style.pink, blur),
        (debris, style.debris, blur + 1),
    ):
        density = cv2.GaussianBlur(canvas, (0, 0), sigma).astype(np.float32) * np.float32(1 / _FULL_DENSITY)
        absorbance += density[:, :, None] * colour
    smear = _cloud(rng, width, height, cell_px=18) * 0.6 + _cloud(rng, width, height, cell_px=70)
    absorbance += (np.maximum(smear + 0.3, 0) * style.mottle)[:, :, None] * style.debris
    picture = np.exp(-absorbance) * style.background * _light(style, width, height)[:, :, None]
    picture += rng.standard_normal(picture.shape, np.float32) * np.float32(style.noise)
    return np.asarray(np.clip(picture * 255 + 0.5, 0, 255), np.uint8)


def _light(style: Style, width: int, height: int) -> NDArray[np.float32]:
    """Illumination [H, W] about 1: a tilt across the field and a fall-off towards the corners."""
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    tilt = np.float32(np.cos(style.light_angle)) * x + np.float32(np.sin(style.light_angle)) * y
    light = 1 + np.float32(style.light_tilt) * tilt - np.float32(style.vignette / 2) * (x * x + y * y)
    return light.astype(np.float32, copy=False)


def _cloud(rng: np.random.Generator, width: int, height: int, cell_px: int) -> NDArray[np.float32]:
    """Smooth noise [H, W] of unit size whose lumps are about `cell_px` wide."""
    grid = rng.standard_normal((height // cell_px + 3, width // cell_px + 3), np.float32)
    return cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.float32, copy=False)


def _count(rng: np.random.Generator, per_megapixel: float, width: int, height: int) -> int:
    return int(rng.poisson(per_megapixel * width * height / 1e6))


def _draw_host_cells(debris: Canvas, rng: np.random.Generator, style: Style) -> None:
    """White cells (pink body, lobed darker nucleus) and pale red cells, some of them cut by the edge."""
    height, width = debris.shape
    scale = style.px_per_um
    for _ in range(_count(rng, 14 * style.cells, width, height)):
        x, y = rng.uniform(-20, width + 20), rng.uniform(-20, height + 20)
        radius = rng.uniform(4.0, 6.0) * scale
        _blob(debris, rng, x, y, radius, rng.uniform(40, 80))
        for _ in range(int(rng.integers(2, 5))):
            lobe_x, lobe_y = x + rng.normal(0, radius * 0.35), y + rng.normal(0, radius * 0.35)
            _blob(debris, rng, lobe_x, lobe_y, radius * rng.uniform(0.28, 0.42), rng.uniform(120, 185))
    for _ in range(_count(rng, 20 * style.cells, width, height)):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        _blob(debris, rng, x, y, rng.uniform(2.8, 3.6) * scale, rng.uniform(25, 50))
        _blob(debris, rng, x, y, rng.uniform(1.2, 1.6) * scale, rng.uniform(10, 22))


def _draw_fibrin(debris: Canvas, rng: np.random.Generator, style: Style) -> None:
    """Thin pale strands that wander through the field: never as thick, straight or dense as a rod."""
    height, width = debris.shape
    for _ in range(_count(rng, 700 * style.fibrin, width, height)):
        turns = rng.uniform(0, 2 * np.pi) + rng.normal(0, 0.35, int(rng.integers(6, 14))).cumsum()
        steps = 0.35 * style.px_per_um * np.stack([np.cos(turns), np.sin(turns)], axis=1)
        points = np.round((steps.cumsum(axis=0) + rng.uniform(0, 1, 2) * (width, height)) * 16).astype(np.int32)
        cv2.polylines(debris, [points], False, rng.uniform(25, 75), int(rng.integers(1, 3)), cv2.LINE_AA, 4)


def _draw_precipitate(violet: Canvas, rng: np.random.Generator, style: Style) -> None:
    """Crystal violet that fell out: irregular specks, mostly smaller than a coccus, the classic false positive."""
    height, width = violet.shape
    for _ in range(_count(rng, 160 * style.precipitate, width, height)):
        radius = rng.uniform(0.06, 0.22) * style.px_per_um
        _blob(violet, rng, rng.uniform(0, width), rng.uniform(0, height), radius, rng.uniform(60, 170), ragged=0.35)


def _blob(
    canvas: Canvas, rng: np.random.Generator, x: float, y: float, radius: float, value: float, ragged: float = 0.1
) -> None:
    """An irregular round spot of one density, `ragged` (share of the radius) out of round."""
    angle = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    waves = rng.normal(0, ragged, 3)[:, None] * np.cos(np.arange(2, 5)[:, None] * angle + rng.uniform(0, 6.3, (3, 1)))
    reach = radius * (1 + waves.sum(axis=0))
    points = np.stack([x + reach * np.cos(angle), y + reach * np.sin(angle)], axis=1)
    cv2.fillPoly(canvas, [np.round(points * 16).astype(np.int32)], float(value), cv2.LINE_AA, 4)
