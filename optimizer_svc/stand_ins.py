"""Tiles spoilt on purpose: stand-ins for slides that no data set holds, to see what the rules notice."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Tiles = NDArray[np.uint8]

BLUR = 3 / 224  # of the edge of a tile
NOISE = 1.5  # grey levels of a camera, which no lens blurs
GLASS_TILES = 16


def blurred(tiles: Tiles, seed: int) -> Tiles:
    """The tiles out of focus: a Gaussian blur of 3 pixels in 224, under a camera's noise."""
    sigma = max(BLUR * tiles.shape[1], 0.5)
    soft = np.stack([cv2.GaussianBlur(tile, (0, 0), sigma) for tile in tiles])
    noise = np.random.default_rng(seed).standard_normal(tiles.shape, np.float32) * np.float32(NOISE)
    return np.asarray(np.clip(soft + noise, 0, 255), np.uint8)


def glass(edge: int, seed: int) -> Tiles:
    """Clean glass under a camera, from dim to nearly overexposed: uint8 [16, edge, edge, 3]."""
    rng = np.random.default_rng(seed)
    light = np.linspace(150, 250, GLASS_TILES)[:, None, None, None] * np.array([1.0, 0.99, 0.98])
    noise = rng.standard_normal((GLASS_TILES, edge, edge, 3)) * NOISE
    return np.asarray(np.clip(light + noise, 0, 255), np.uint8)


def unfamiliar(tiles: Tiles, seed: int) -> dict[str, Tiles]:
    """Pictures unlike the tiles, by name: what another stain, another magnification or no slide at all may give."""
    rng = np.random.default_rng(seed)
    edge = tiles.shape[1]
    quarter = edge // 4
    middle = [cv2.resize(tile[quarter : edge - quarter, quarter : edge - quarter], (edge, edge)) for tile in tiles]
    return {
        "noise": rng.integers(0, 256, tiles.shape, np.uint8),
        "colours inverted": np.asarray(255 - tiles),
        "red and blue exchanged": np.ascontiguousarray(tiles[..., ::-1]),
        "twice the magnification": np.stack([np.asarray(tile, np.uint8) for tile in middle]),
    }
