"""Bacteria as a microscopist knows them: where the cells of one group lie, and how each is drawn on a stain canvas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

Canvas: TypeAlias = NDArray[np.uint8]

_SHIFT = 4  # OpenCV draws with 1/16 pixel positions
_ONE = 1 << _SHIFT


@dataclass(frozen=True, slots=True)
class Cell:
    """One bacterium: its class, its centre and its half length, in pixels of the field."""

    label: str
    x: float
    y: float
    radius: float


def draw_group(
    canvas: Canvas, rng: np.random.Generator, label: str, x: float, y: float, px_per_um: float, density: float
) -> list[Cell]:
    """Draws one group of `label` around (x, y) on its stain's `canvas` (uint8 [H, W], density) and lists its cells."""
    if label == "GPC_CLUSTERS":
        return _draw_cluster(canvas, rng, x, y, px_per_um, density)
    if label == "GPC_PAIRS_CHAINS":
        return _draw_chain(canvas, rng, x, y, px_per_um, density)
    if label == "GPR":
        return _draw_positive_rods(canvas, rng, x, y, px_per_um, density)
    return _draw_negative_rods(canvas, rng, x, y, px_per_um, density)


def _draw_cluster(
    canvas: Canvas, rng: np.random.Generator, x: float, y: float, px_per_um: float, density: float
) -> list[Cell]:
    """Staphylococci: a grape-like heap that grows coccus by coccus, neighbours touching, with a ragged edge."""
    radius = rng.uniform(0.40, 0.52) * px_per_um
    wanted = int(rng.integers(6, 32))
    points = [(x, y)]
    for _ in range(wanted * 6):
        if len(points) == wanted:
            break
        # Growing from an early cell keeps the heap round; from a late one lets arms stand out.
        px, py = points[int(len(points) * rng.beta(1.0, 1.5))]
        angle = rng.uniform(0, 2 * np.pi)
        reach = radius * rng.uniform(1.75, 2.0)
        candidate = (px + reach * np.cos(angle), py + reach * np.sin(angle))
        near = min((candidate[0] - qx) ** 2 + (candidate[1] - qy) ** 2 for qx, qy in points)
        if near > (1.6 * radius) ** 2:
            points.append(candidate)
    return [_draw_coccus(canvas, rng, "GPC_CLUSTERS", px, py, radius, density) for px, py in points]


def _draw_chain(
    canvas: Canvas, rng: np.random.Generator, x: float, y: float, px_per_um: float, density: float
) -> list[Cell]:
    """Streptococci and enterococci: pairs, and chains of up to ten that bend; cocci slightly long along the chain."""
    radius = rng.uniform(0.38, 0.50) * px_per_um
    length = 2 if rng.random() < 0.45 else int(rng.integers(3, 11))
    heading = rng.uniform(0, 2 * np.pi)
    bend = rng.normal(0, 0.16)
    points = []
    px, py = 0.0, 0.0
    for index in range(length):
        points.append((px, py, heading))
        # Division goes in pairs: the gap inside a pair is smaller than the one between pairs.
        step = radius * (rng.uniform(1.9, 2.05) if index % 2 == 0 else rng.uniform(2.05, 2.4))
        heading += bend + rng.normal(0, 0.12)
        px, py = px + step * np.cos(heading), py + step * np.sin(heading)
    cx, cy = sum(p[0] for p in points) / length, sum(p[1] for p in points) / length
    return [
        _draw_coccus(canvas, rng, "GPC_PAIRS_CHAINS", x + qx - cx, y + qy - cy, radius, density, stretch=1.05, angle=a)
        for qx, qy, a in points
    ]


def _draw_positive_rods(
    canvas: Canvas, rng: np.random.Generator, x: float, y: float, px_per_um: float, density: float
) -> list[Cell]:
    """Bacilli: thick violet rods with blunt ends, single or two to three end to end, sometimes unevenly stained."""
    half_width = rng.uniform(0.38, 0.50) * px_per_um
    half_length = half_width * rng.uniform(3.0, 4.6)
    angle = rng.uniform(0, np.pi)
    cells = []
    count = int(rng.choice((1, 2, 3), p=(0.65, 0.25, 0.10)))
    for index in range(count):
        offset = (index - (count - 1) / 2) * 2 * half_length * 1.04
        tilt = angle + rng.normal(0, 0.07)
        rx, ry = x + offset * np.cos(angle), y + offset * np.sin(angle)
        _draw_rod(canvas, rx, ry, half_length, half_width, tilt, density * rng.uniform(0.9, 1.1), rng.normal(0, 0.025))
        if rng.random() < 0.2:
            _draw_granules(canvas, rng, rx, ry, half_length, half_width, tilt, density)
        cells.append(Cell("GPR", rx, ry, half_length))
    return cells


def _draw_negative_rods(
    canvas: Canvas, rng: np.random.Generator, x: float, y: float, px_per_um: float, density: float
) -> list[Cell]:
    """Enterobacteria and their like: slender pink rods with round ends, scattered singly, the middle often paler."""
    cells = []
    spread = 2.2 * px_per_um
    half_width = rng.uniform(0.27, 0.37) * px_per_um
    pale_middle = rng.random() < 0.4
    for number in range(int(rng.integers(1, 6))):
        half_length = half_width * rng.uniform(2.0, 4.2)
        angle = rng.uniform(0, np.pi)
        aside, above = rng.normal(0, spread, 2) * min(number, 1)  # the first rod lies where the group was put
        rx, ry = x + aside, y + above
        strength = density * rng.uniform(0.85, 1.1)
        _draw_rod(canvas, rx, ry, half_length, half_width, angle, strength, rng.normal(0, 0.045))
        if pale_middle:
            _draw_rod(canvas, rx, ry, half_length * 0.45, half_width * 0.5, angle, strength * 0.75, 0.0)
        cells.append(Cell("GNR", rx, ry, half_length))
    return cells


def _draw_coccus(
    canvas: Canvas,
    rng: np.random.Generator,
    label: str,
    x: float,
    y: float,
    radius: float,
    density: float,
    *,
    stretch: float = 1.0,
    angle: float = 0.0,
) -> Cell:
    """One coccus: a thinner rim around a dense body, so that touching cocci stay countable."""
    size = radius * rng.normal(1.0, 0.05)
    strength = density * rng.uniform(0.9, 1.1)
    for part, share in ((1.0, 0.55), (0.78, 1.0)):
        axes = (_fixed(size * part * stretch), _fixed(size * part))
        value = _level(strength * share)
        centre = (_fixed(x), _fixed(y))
        cv2.ellipse(canvas, centre, axes, float(np.degrees(angle)), 0, 360, value, cv2.FILLED, cv2.LINE_AA, _SHIFT)
    return Cell(label, x, y, size)


def _draw_rod(
    canvas: Canvas,
    x: float,
    y: float,
    half_length: float,
    half_width: float,
    angle: float,
    density: float,
    bend: float,
) -> None:
    """One rod: a capsule bent by `bend` (sagitta as a share of its length), with a thinner rim than body."""
    for part, share in ((1.0, 0.65), (0.74, 1.0)):
        width = half_width * part
        reach = max(half_length - half_width, 0.1)
        cap = np.linspace(-np.pi / 2, np.pi / 2, 7)
        right = np.stack([reach + width * np.cos(cap), width * np.sin(cap)], axis=1)
        middle = np.array([[0.0, width]])
        outline = np.concatenate([right, middle, -right, -middle])
        outline[:, 1] += bend * half_length * 2 * (1 - (outline[:, 0] / half_length) ** 2)
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        points = np.round((outline @ turn + (x, y)) * _ONE).astype(np.int32)
        cv2.fillPoly(canvas, [points], _level(density * share), cv2.LINE_AA, _SHIFT)


def _draw_granules(
    canvas: Canvas,
    rng: np.random.Generator,
    x: float,
    y: float,
    half_length: float,
    half_width: float,
    angle: float,
    density: float,
) -> None:
    """Pale spots along a Gram-positive rod, as in an older culture that has begun to lose its stain."""
    for along in np.arange(-0.7, 0.71, 0.35):
        shift = along + rng.normal(0, 0.08)
        centre = (_fixed(x + shift * half_length * np.cos(angle)), _fixed(y + shift * half_length * np.sin(angle)))
        spot = _fixed(half_width * rng.uniform(0.25, 0.45))
        value = _level(density * rng.uniform(0.55, 0.85))
        cv2.circle(canvas, centre, spot, value, cv2.FILLED, cv2.LINE_AA, _SHIFT)


def _fixed(value: float) -> int:
    return round(value * _ONE)


def _level(density: float) -> float:
    """Density 0..1.27 as a canvas value."""
    return float(min(max(density, 0.0) * 200.0, 255.0))
