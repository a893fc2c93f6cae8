"""Which workers there are, and what each said of itself last: for people who look, never for deciding anything."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from redis.asyncio import Redis

from gramserve.queue.script import Scripts

SILENCE_S = 30.0
"""A worker that was silent for so long is not listed any more."""

QUIET_S = 10.0
"""A worker tells of itself every 3 s; one that was quiet for so long runs no slides, though it may hold some."""


@dataclass(frozen=True, slots=True)
class Card:
    """What a worker says of itself: its release, how many of its children are ready, and the slides that it has leased.

    `longest_s`: how long it has had one of them at most. `models`: versions that it has loaded. `serving`: it takes
    slides.
    """

    release: str
    ready: int
    children: int
    leased: int
    longest_s: float
    models: tuple[str, ...]
    serving: bool


@dataclass(frozen=True, slots=True)
class Seen:
    """A worker, what it said, and how many seconds ago."""

    worker: str
    age_s: float
    card: Card


class Roster:
    """The workers of one lane. Every method raises Unavailable when Redis cannot be reached."""

    def __init__(self, redis: Redis, lane: str) -> None:
        self._scripts = Scripts(redis, f"{{gs:{lane}}}")

    async def announce(self, worker: str, card: Card) -> None:
        """Say this of `worker`; say it again well before it counts as silent."""
        await self._scripts.run("announce", worker, json.dumps(asdict(card)), _SILENCE_MS)

    async def leave(self, worker: str) -> None:
        """The worker has stopped."""
        await self._scripts.run("announce", worker, "", _SILENCE_MS)

    async def workers(self) -> list[Seen]:
        """Those that were heard of lately, by name; what another release said is understood as far as possible."""
        reply = await self._scripts.run("roster", _SILENCE_MS)
        rows = zip(reply[::3], reply[1::3], reply[2::3], strict=True)
        found = [(str(worker), int(age_ms) / 1000, _read(said)) for worker, age_ms, said in rows]
        return [Seen(worker, age_s, card) for worker, age_s, card in sorted(found, key=lambda row: row[0])]


_SILENCE_MS = round(SILENCE_S * 1000)


def _read(said: str) -> Card:
    try:
        known: dict[str, Any] = json.loads(said)
        return Card(
            release=str(known.get("release", "")),
            ready=int(known.get("ready", 0)),
            children=int(known.get("children", 0)),
            leased=int(known.get("leased", 0)),
            longest_s=float(known.get("longest_s", 0.0)),
            models=tuple(map(str, known.get("models", ()))),
            serving=known.get("serving") is True,
        )
    except (ValueError, TypeError, AttributeError):
        return Card("", 0, 0, 0, 0.0, (), serving=False)
