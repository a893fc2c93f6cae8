"""The look of one synthetic preparation: stain, light, focus and background, the same for all of its fields."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Colours of an empty field, RGB 0..1, as seen on real preparations: neutral, lavender, cream, rose, grey-blue.
BACKGROUNDS = ((0.90, 0.91, 0.93), (0.72, 0.68, 0.82), (0.87, 0.86, 0.72), (0.82, 0.70, 0.71), (0.62, 0.61, 0.72))
# What each stain takes from red, green and blue light at full density (natural logarithm, Beer-Lambert).
VIOLETS = ((1.55, 2.10, 0.95), (1.15, 1.90, 0.70), (1.60, 1.80, 1.15))
PINKS = ((0.12, 0.72, 0.45), (0.20, 0.95, 0.62), (0.16, 0.62, 0.55))


@dataclass(frozen=True, slots=True)
class Style:
    """How one preparation was stained and photographed.

    `background`, `violet`, `pink` and `debris` are RGB triples (colour 0..1; absorbance for the stains). `blur_px` is
    the standard deviation of the focus error in pixels, `noise` that of the sensor noise (0..1). `px_per_um` is the
    scale. The other numbers are strengths from 0 to about 1.
    """

    background: NDArray[np.float32]
    violet: NDArray[np.float32]
    pink: NDArray[np.float32]
    debris: NDArray[np.float32]
    px_per_um: float
    blur_px: float
    noise: float
    vignette: float
    light_tilt: float
    light_angle: float
    mottle: float
    fibrin: float
    precipitate: float
    cells: float


def draw_style(rng: np.random.Generator, px_per_um: float) -> Style:
    """A random style; independent of what will lie on the slide, so that colour alone predicts no label."""
    weights = rng.dirichlet(np.full(len(BACKGROUNDS), 0.6))
    background = weights @ np.asarray(BACKGROUNDS) * rng.uniform(0.82, 1.06) + rng.normal(0, 0.015, 3)
    violet = _mix(rng, VIOLETS) * rng.uniform(0.8, 1.25)
    pink = _mix(rng, PINKS) * rng.uniform(0.8, 1.25)
    return Style(
        background=np.clip(background, 0.3, 1.0).astype(np.float32),
        violet=violet.astype(np.float32),
        pink=pink.astype(np.float32),
        debris=(_mix(rng, PINKS) * (1.0, 0.85, rng.uniform(0.9, 1.5))).astype(np.float32),
        px_per_um=px_per_um * rng.uniform(0.88, 1.12),
        blur_px=rng.uniform(0.55, 1.0) if rng.random() < 0.75 else rng.uniform(1.0, 1.8),
        noise=rng.uniform(0.003, 0.012),
        vignette=rng.uniform(0.0, 0.22),
        light_tilt=rng.uniform(0.0, 0.10),
        light_angle=rng.uniform(0, 2 * np.pi),
        mottle=rng.uniform(0.02, 0.14),
        fibrin=rng.choice((0.0, rng.uniform(0.2, 1.0)), p=(0.55, 0.45)),
        precipitate=rng.choice((0.0, rng.uniform(0.2, 1.0)), p=(0.5, 0.5)),
        cells=rng.choice((0.0, rng.uniform(0.3, 1.0)), p=(0.6, 0.4)),
    )


def _mix(rng: np.random.Generator, colours: tuple[tuple[float, float, float], ...]) -> NDArray[np.float64]:
    """A random weighted mean of the colours, [3]."""
    return np.asarray(rng.dirichlet(np.ones(len(colours))) @ np.asarray(colours) * rng.normal(1.0, 0.04, 3))
