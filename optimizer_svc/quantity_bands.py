"""The bands of an oil-immersion field as shares of tiles, for the size of an artifact's tiles."""

from __future__ import annotations

import math

from gramserve.store.manifest import Preprocessing, QuantityBands

# Organisms for each oil-immersion field (100x objective) from which they are few, moderate and many.
FEW, MODERATE, MANY = 1.0, 6.0, 30.0
# Such a field is 0.2 mm across, with an eyepiece of field number 20.
FIELD_UM2 = math.pi / 4 * 200.0**2
# Microns per pixel of a usual camera on a 100x objective, where the contract does not say.
USUAL_MPP = 0.08
# Less than what one picture of a small camera shows is not graded.
LEAST_FIELDS = 0.2


def bands_for(preprocessing: Preprocessing) -> tuple[QuantityBands | None, str]:
    """The bands for tiles cut as `preprocessing` says, and a sentence for the report; None where sizes vary.

    With k organisms for each field lying independently, a tile of a share a of the field shows at least one with the
    probability 1 - exp(-k a): the share of tiles where a band begins. It is the zero term of Poisson's distribution, as
    in dilution counts.
    """
    if preprocessing.tiling == "single":
        return None, "Quantities are not told: tiles vary in size, so a share of tiles says nothing about an area."
    mpp = preprocessing.mpp or USUAL_MPP
    area = (preprocessing.tile_px * mpp) ** 2 / FIELD_UM2
    few, moderate, many = (round(-math.expm1(-count * area), 6) for count in (FEW, MODERATE, MANY))
    if not 0 < few < moderate < many:
        return None, "Quantities are not told: the tiles are too large, or too small, to grade by."
    known = "by" if preprocessing.mpp else "assuming"
    note = (
        f"Quantities: a tile is {area:.3g} of an oil-immersion field ({known} {mpp:.3g} microns per pixel), so a "
        f"finding is FEW from {few:.1%} of the tiles on, MODERATE from {moderate:.1%} and MANY from {many:.1%}."
    )
    return QuantityBands(few=few, moderate=moderate, many=many, min_tiles=max(1, math.ceil(LEAST_FIELDS / area))), note
