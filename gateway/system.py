"""How the system stands: open batches and those of the night, the queue, the workers, and when all will be done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

from gateway.names import BatchName
from gateway.progress import Forecast, forecast
from gateway.views import BatchView, Views
from gramserve.access.principal import Principal
from gramserve.queue import QUIET_S, Depth, Queue, Roster, Seen
from gramserve.store.batches import BatchStore
from gramserve.store.codec import RecordCorrupt
from gramserve.store.records import BatchRecord, Counts

MOST_SHOWN = 100
DEFAULT_S = 12 * 3600.0
LONGEST_S = 7 * 86_400.0
KNOWN_S = 60.0
"""How long the end of a batch is remembered: it may have been tried again between two looks."""
MOST_KNOWN = 10_000
_PAGE = 256


@dataclass(frozen=True, slots=True)
class System:
    """The system at `time` (Unix seconds): `ended` batches, the last first; `counts` are over all batches.

    `damaged` are those of which a record cannot be read: they stand nowhere else. `others_open`: so are batches that
    the principal may not see.
    """

    time: float
    depth: Depth
    workers: list[Seen]
    open: Forecast
    ended: list[BatchView]
    counts: Counts
    damaged: list[BatchName]
    others_open: bool


class SystemView:
    """Looks at the system. `clock` gives Unix seconds."""

    def __init__(
        self, batches: BatchStore, views: Views, queue: Queue, roster: Roster, clock: Callable[[], float]
    ) -> None:
        self._batches = batches
        self._views = views
        self._queue = queue
        self._roster = roster
        self._clock = clock
        self._ended: dict[BatchName, tuple[BatchView, float]] = {}

    async def look(self, principal: Principal, since: float | None = None) -> System:
        """The system as `principal` may see it, with ended batches that were accepted at or after `since`.

        None are the last 12 hours; more than 7 days are 7. Raises Unavailable when Redis or the store does not answer.
        """
        now = self._clock()
        since = now - DEFAULT_S if since is None else max(since, now - LONGEST_S)
        every = {BatchName(laboratory, batch) async for laboratory, batch in self._batches.unfinished()}
        open_names = {name for name in every if principal.may_see(name.laboratory)}
        damaged: set[BatchName] = set()
        running, ended = [], await self._since(principal, since, open_names, now, damaged)
        for name in sorted(open_names, key=lambda name: name.key):
            view = await self._view(name, damaged)
            if view is None:
                continue
            if view.state.terminal:
                ended.append(view)
                continue
            running.append(view)
        ended.sort(key=lambda view: view.end_time or 0.0, reverse=True)
        workers = await self._roster.workers()
        works = any(seen.card.serving and seen.age_s < QUIET_S for seen in workers)
        return System(
            now,
            await self._queue.depth(),
            workers,
            forecast(running, now, sum(view.per_second for view in running) if works else 0.0),
            ended,
            _sum([*running, *ended]),
            sorted(damaged, key=lambda name: name.key),
            others_open=len(open_names) < len(every),
        )

    async def _view(
        self, name: BatchName, damaged: set[BatchName], record: BatchRecord | None = None
    ) -> BatchView | None:
        """The batch; None when it is not there, and when the store has of it what cannot be read: it is `damaged`."""
        try:
            record = record or await self._batches.get_batch(name.laboratory, name.batch)
            return await self._views.view(record) if record is not None else None
        except RecordCorrupt:
            damaged.add(name)
            return None

    async def _since(
        self, principal: Principal, since: float, open_names: set[BatchName], now: float, damaged: set[BatchName]
    ) -> list[BatchView]:
        """The ended batches that were accepted at or after `since`; one that has ended is seldom read again."""
        found: dict[BatchName, tuple[BatchView, float]] = {}
        for laboratory in await self._batches.objects.folders("batches"):
            after: tuple[float, str] | None = None
            unreadable: set[str] = set()
            while principal.may_see(laboratory):
                page = await self._batches.list_batches(laboratory, limit=_PAGE, after=after, damaged=unreadable)
                for record in page:
                    name = BatchName(laboratory, record.batch)
                    if record.create_time >= since and name not in open_names:
                        known = self._ended.get(name)
                        if known is not None and now - known[1] < KNOWN_S:
                            found[name] = known
                        elif (view := await self._view(name, damaged, record)) is not None:
                            found[name] = view, now
                if len(page) < _PAGE or page[-1].create_time < since:
                    break
                after = (page[-1].create_time, page[-1].batch)
            damaged |= {BatchName(laboratory, batch) for batch in unreadable}
        # One that is tried again is open for a while, and so read again at its next end.
        kept = {name: view for name, view in self._ended.items() if name not in open_names and name not in found}
        self._ended = kept | {name: known for name, known in found.items() if known[0].state.terminal}
        while len(self._ended) > MOST_KNOWN:
            self._ended.pop(next(iter(self._ended)))
        return [view for view, _ in found.values() if view.state.terminal]


def _sum(views: list[BatchView]) -> Counts:
    names = [field.name for field in fields(Counts)]
    return Counts(**{name: sum(getattr(view.counts, name) for view in views) for name in names})
