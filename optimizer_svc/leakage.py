"""Near copies of tiles across the splits: found by a perceptual hash, confirmed on pixels, left out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from gramserve.store.manifest import Label
from optimizer_svc.splits import Split, Splits, select
from optimizer_svc.tiles import TileSet

THUMB_PX, BLOCK = 32, 8
# Of the 63 bits at most so many may differ; recompressed, resized and relit copies of real tiles differ in 0 to 5.
MAX_BITS = 12
# Copies of real tiles correlate by 0.95 to 1, others of the same slide by up to 0.87: one rod is like another.
CORRELATION = 0.95
# On nearly blank tiles a new compression alone lowers the correlation; what differs is then only about a grey level.
BLANK_CORRELATION, BLANK_LEVELS = 0.75, 1.5
# Standard deviation, in grey levels, under which a thumbnail shows nothing but the noise of the camera.
MIN_CONTRAST = 0.5
SHADING_SIGMA_PX = 4.0
JUDGING_AT_ONCE, PAIRS_AT_ONCE = 256, 2048
TURNS = tuple((turned, up, left) for turned in (False, True) for up in (False, True) for left in (False, True))

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Prints:
    """What is left of tiles to compare them by.

    `waves` [N, 8, 8]: the lowest DCT coefficients of their luminance, without the mean; `thumbs` [N, 32, 32, 3]: colour
    thumbnails without their shading, of length 1, or 0 where there is nothing to see; `contrast` [N]: their standard
    deviation in grey levels.
    """

    waves: Floats
    thumbs: Floats
    contrast: Floats

    def of(self, keep: Mask) -> Prints:
        """The prints of the tiles that `keep` [N] names."""
        return Prints(self.waves[keep], self.thumbs[keep], self.contrast[keep])

    def __add__(self, other: Prints) -> Prints:
        together = (np.concatenate(both) for both in zip(self._parts, other._parts, strict=True))
        return Prints(*together)

    @property
    def _parts(self) -> tuple[Floats, Floats, Floats]:
        return self.waves, self.thumbs, self.contrast


@dataclass(frozen=True, slots=True)
class Held:
    """The splits with their tiles in memory."""

    splits: Splits
    train: TileSet
    val: TileSet
    test: TileSet | None


def without_near_copies(held: Held, labels: Sequence[Label]) -> Held:
    """`held` without the tiles that a later split also has in other bytes: recompressed, resized, relit or turned.

    As with exact copies, a tile stays in the split that judges: test before val before train. The notes say how many
    went. The arrays of `held` may be changed in place. Raises InvalidInput EMPTY_CLASS when a class has no tile left.
    """
    splits, train, val, test = held.splits, held.train, held.val, held.test
    notes = list(splits.notes)
    val_prints = prints(val.tiles)
    if splits.test is not None and test is not None:
        test_prints = prints(test.tiles)
        found, other = _in_later(val, val_prints, test, test_prints)
        splits = dataclasses.replace(splits, val=_kept_split(splits.val, found, labels))
        notes += _notes("val", "test", found, other)
        val = _kept(val, found)
        val_prints = val_prints.of(~found) + test_prints
        judging = np.concatenate([val.targets, test.targets])
    else:
        judging = val.targets
    found, other = _in_later(train, prints(train.tiles), TileSet(val.tiles, judging), val_prints)
    splits = dataclasses.replace(splits, train=_kept_split(splits.train, found, labels))
    notes += _notes("train", "val or test" if test is not None else "val", found, other)
    return Held(dataclasses.replace(splits, notes=tuple(notes)), _kept(train, found), val, test)


def prints(tiles: NDArray[np.uint8]) -> Prints:
    """The prints of `tiles`, uint8 RGB [N, S, S, 3]."""
    waves = np.empty((len(tiles), BLOCK, BLOCK), np.float32)
    thumbs = np.empty((len(tiles), THUMB_PX, THUMB_PX, 3), np.float32)
    contrast = np.empty(len(tiles), np.float32)
    for i, tile in enumerate(tiles):
        small = cv2.resize(tile, (THUMB_PX, THUMB_PX), interpolation=cv2.INTER_AREA).astype(np.float32)
        waves[i] = cv2.dct(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY))[:BLOCK, :BLOCK]
        # Uneven light and the colour of the stain are alike in all tiles of a slide: what lies on them is compared.
        thumb = small - cv2.GaussianBlur(small, (0, 0), SHADING_SIGMA_PX)
        thumb -= thumb.mean(axis=(0, 1))
        contrast[i] = np.linalg.norm(thumb) / thumb.size**0.5
        thumbs[i] = thumb / np.linalg.norm(thumb) if contrast[i] >= MIN_CONTRAST else 0
    waves[:, 0, 0] = 0
    return Prints(waves, thumbs, contrast)


def near_copies(these: Prints, those: Prints) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pairs (places in `these`, places in `those`) of near copies, the eight turns and flips included.

    The hash is the sign of each coefficient (Zauner 2010, Implementation and Benchmarking of Perceptual Image Hash
    Functions); its distances to all others are one product of matrices, so 10,000 tiles take seconds. Blank fields
    share hashes by chance, so a pair counts only when the thumbnails correlate, too. Tiles that show nothing at all are
    never copies.
    """
    bits = np.sign(these.waves).reshape(len(these.waves), -1)
    alike = BLOCK * BLOCK - 1 - 2 * MAX_BITS
    found: list[tuple[NDArray[np.intp], NDArray[np.intp]]] = []
    for start in range(0, len(those.waves), JUDGING_AT_ONCE):
        waves = np.sign(those.waves[start : start + JUDGING_AT_ONCE])
        for turn in TURNS:
            turned = _turned_waves(waves, *turn).reshape(len(waves), -1)
            one, other = np.nonzero(bits @ turned.T >= alike)
            other = other + start
            for at in range(0, len(one), PAIRS_AT_ONCE):
                i, j = one[at : at + PAIRS_AT_ONCE], other[at : at + PAIRS_AT_ONCE]
                like = np.einsum("nhwc,nhwc->n", these.thumbs[i], _turned(those.thumbs[j], *turn))
                differs = np.minimum(these.contrast[i], those.contrast[j]) * np.sqrt(np.maximum(0, 1 - like**2))
                same = (like >= CORRELATION) | ((like >= BLANK_CORRELATION) & (differs <= BLANK_LEVELS))
                found.append((i[same], j[same]))
    if not found:
        return np.empty(0, np.intp), np.empty(0, np.intp)
    return np.concatenate([i for i, _ in found]), np.concatenate([j for _, j in found])


def _turned(images: Floats, turned: bool, up: bool, left: bool) -> Floats:
    """Images [N, H, W, ...] mirrored at the diagonal, then upside down, then left to right."""
    images = images.swapaxes(1, 2) if turned else images
    images = images[:, ::-1] if up else images
    return images[:, :, ::-1] if left else images


def _turned_waves(waves: Floats, turned: bool, up: bool, left: bool) -> Floats:
    """The DCT coefficients [N, 8, 8] of the turned images: mirroring flips the sign of the odd waves."""
    waves = waves.swapaxes(1, 2) if turned else waves
    signs = np.float32(-1) ** np.arange(BLOCK, dtype=np.float32)
    waves = waves * signs[:, None] if up else waves
    return waves * signs if left else waves


def _in_later(tiles: TileSet, own: Prints, later: TileSet, others: Prints) -> tuple[Mask, int]:
    """Which of `tiles` [N] a later split also has, and how many of them with another label there."""
    mine, theirs = near_copies(own, others)
    found = np.zeros(len(tiles), bool)
    found[mine] = True
    return found, len(set(mine[tiles.targets[mine] != later.targets[theirs]].tolist()))


def _kept_split(split: Split, dropped: Mask, labels: Sequence[Label]) -> Split:
    return select(split, ~dropped, labels) if dropped.any() else split


def _kept(tiles: TileSet, dropped: Mask) -> TileSet:
    """Moves the kept tiles together in place: a copy of a large training split may not fit into memory."""
    if not dropped.any():
        return tiles
    kept = np.flatnonzero(~dropped)
    for to, place in enumerate(kept):
        tiles.tiles[to] = tiles.tiles[place]
    return TileSet(tiles.tiles[: len(kept)], tiles.targets[kept])


def _notes(name: str, later: str, found: Mask, other: int) -> list[str]:
    if not found.any():
        return []
    count = int(found.sum())
    if count == 1:
        text = f"1 tile of {name} is a near copy of a tile of {later} and was left out."
        return [text + " It has another label there: check the labels." if other else text]
    text = f"{count} tiles of {name} are near copies of tiles of {later} and were left out."
    return [text + f" {other} of them have another label there: check the labels." if other else text]
