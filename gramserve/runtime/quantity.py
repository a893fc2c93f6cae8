"""How many tiles make a finding, and how much of an organism they stand for."""

from __future__ import annotations

import math
from functools import lru_cache

from gramserve.calls import Quantity
from gramserve.store.manifest import Aggregation, QuantityBands


def tiles_needed(total: int, assessed: int, rules: Aggregation) -> int:
    """The fewest tiles that make a finding on a slide with `total` tiles, `assessed` of them fit to read.

    At least `min_tiles`, and more than false alarms alone give on all but `slide_false_alarm` of slides of this size. A
    slide that has fewer tiles needs all of them: a person chose to send no more. One that lost tiles to blur does not
    get by with fewer. One more tile on a slide never asks for more than one tile more.
    """
    by_chance = above_chance(assessed, rules.tile_false_alarm, rules.slide_false_alarm)
    return min(max(rules.min_tiles, by_chance), total)


@lru_cache(maxsize=4096)
def above_chance(tiles: int, rate: float, risk: float) -> int:
    """The smallest k that `tiles` independent tiles, each a false alarm with `rate`, reach with at most `risk`."""
    if rate <= 0.0 or tiles == 0:
        return 1
    if rate >= 1.0:
        return tiles + 1
    odds = math.log(rate) - math.log1p(-rate)
    log_share = tiles * math.log1p(-rate)  # of slides with no false alarm at all
    below = math.exp(log_share)
    count = 1
    while 1.0 - below > risk and count <= tiles:
        log_share += odds + math.log((tiles - count + 1) / count)
        below += math.exp(log_share)
        count += 1
    return count


def quantity_of(seen: int, assessed: int, bands: QuantityBands | None) -> Quantity | None:
    """The band of a class seen on `seen` of `assessed` tiles; None without bands, or where the tiles are too few."""
    if bands is None or assessed < bands.min_tiles:
        return None
    share = seen / assessed
    if not seen:
        return Quantity.NONE
    if share < bands.few:
        return Quantity.RARE
    if share < bands.moderate:
        return Quantity.FEW
    return Quantity.MODERATE if share < bands.many else Quantity.MANY
