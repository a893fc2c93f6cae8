"""A worker says how it stands while it works, and that it has stopped."""

from __future__ import annotations

from gramserve.metrics import installed_version
from gramserve.queue import Roster, Seen
from tests.inference.bench import Bench
from tests.waiting import until


async def test_a_worker_is_on_the_roster_with_its_children_and_models_until_it_stops(bench: Bench) -> None:
    version = await bench.publish()
    roster = Roster(bench.redis, "slides")
    async with bench.worker(children=1) as worker:

        async def announced() -> Seen | None:
            found = await roster.workers()
            return found[0] if found and version.name in found[0].card.models else None

        seen = await until(announced)
        assert seen is not None
        assert seen.worker == worker.worker_id
        assert (seen.card.release, seen.card.ready, seen.card.children) == (installed_version(), 1, 1)
        assert seen.card.serving
    assert await roster.workers() == []
