"""How the version in the shadow of production does: its tallies with confidence intervals."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

from gramserve.errors import NotFound, Reason
from gramserve.store.registry import PRODUCTION, SHADOW, Registry
from gramserve.store.shadows import Shadows, ShadowTally, Verdict

_Z95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Rate:
    """A share of slides, 0 to 1, with its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two versions of a model; `share` (0 to 1) of production's slides is run by the candidate now."""

    model: str
    production: int
    candidate: int
    share: float
    tally: ShadowTally

    @property
    def compared(self) -> int:
        """Slides with two calls."""
        return self.tally.count(*(verdict for verdict in Verdict if verdict.compared))

    @property
    def agreement(self) -> Rate | None:
        """Slides with the same outcome and findings; None while none was compared."""
        return wilson(self.tally.count(*(verdict for verdict in Verdict if verdict.agrees)), self.compared)

    @property
    def very_major(self) -> Rate | None:
        """Slides with an organism missed or a Gram reaction turned over; None while none was compared."""
        return wilson(self.tally.count(*(verdict for verdict in Verdict if verdict.very_major)), self.compared)

    @property
    def speed_ratio(self) -> float:
        """How many times faster the candidate's engine was on the same slides; 0 when unknown."""
        return self.tally.production_s / self.tally.candidate_s if self.tally.candidate_s else 0.0


class Comparer:
    """Reads what workers wrote about a model's shadow."""

    def __init__(self, registry: Registry, shadows: Shadows) -> None:
        self._registry = registry
        self._shadows = shadows

    async def compare(self, model: str, *, production: int = 0, candidate: int = 0) -> Comparison:
        """The comparison of two versions; 0 is the one that is in production, or in the shadow, now.

        Raises NotFound (UNKNOWN_MODEL, UNKNOWN_MODEL_VERSION) when there is no such model, version or shadow.
        """
        base = await self._version(model, PRODUCTION, production)
        shadow = await self._version(model, SHADOW, candidate)
        aliases = [await self._registry.alias(model, name) for name in (PRODUCTION, SHADOW)]
        running = [alias.version if alias else 0 for alias in aliases] == [base, shadow] and base != shadow
        share = aliases[1].share if aliases[1] is not None and running else 0.0
        return Comparison(model, base, shadow, share, await self._shadows.read(model, base, shadow))

    async def _version(self, model: str, alias: str, version: int) -> int:
        try:
            return (await self._registry.resolve(f"models/{model}/versions/{version or alias}")).version
        except NotFound as error:
            if error.reason is Reason.UNKNOWN_MODEL or version:
                raise
            message = f"The model {model} has no version in {'production' if alias == PRODUCTION else 'the shadow'}."
            raise NotFound(error.reason, message, metadata={"model": model, "version": alias}) from None


def wilson(count: int, total: int) -> Rate | None:
    """`count` of `total` with its 95 % confidence interval after Wilson, good for rates near 0 and 1; None of none."""
    if not total:
        return None
    rate, z2 = count / total, _Z95**2
    middle = (rate + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z95 * sqrt(rate * (1 - rate) / total + z2 / (4 * total**2)) / (1 + z2 / total)
    # At the ends the formula is exact but for rounding.
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return Rate(rate, low if count else 0.0, high if count < total else 1.0)
