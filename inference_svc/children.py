"""The children of a worker: keeps them alive and deals work to them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from gramserve import log
from gramserve.metrics import Metrics
from inference_svc.background import keep_running
from inference_svc.depth import SHALLOWEST
from inference_svc.process import ChildProcess
from inference_svc.protocol import (
    CannotStart,
    Combine,
    EngineChosen,
    Failed,
    Inferred,
    LoadModel,
    Message,
    Models,
    Ready,
    RunShadow,
    RunSlide,
    Started,
    VersionLoaded,
)
from inference_svc.served import Served
from inference_svc.work import Ending, Ticket, Withdrawn

FIRST_DELAY_S = 0.2
LAST_DELAY_S = 15.0
STEADY_S = 10.0
"""A child that lived this long, or did any work, did start well: the next one follows at once."""


class Children:
    """`count` slots, each with a child that is replaced when it dies, after a growing delay when it dies at its start.

    `spawn` starts a child; `limit_s` bounds one piece of work; `jitter` gives 0 to 1; `changed` is called whenever
    there may be room for more slides; `grew` is set when a child became ready; `freed` is called when a child has room
    for another inference request. `served` hears of the versions that they load.
    """

    def __init__(
        self,
        count: int,
        *,
        spawn: Callable[[], Awaitable[ChildProcess]],
        limit_s: float,
        metrics: Metrics,
        clock: Callable[[], float],
        jitter: Callable[[], float],
        changed: Callable[[], None],
        served: Served | None = None,
    ) -> None:
        self.count = count
        self.grew = asyncio.Event()
        self.freed: Callable[[], None] = lambda: None
        self._spawn = spawn
        self._limit_s = limit_s
        self._metrics = metrics
        self._clock = clock
        self._jitter = jitter
        self._changed = changed
        self._served = served or Served(metrics)
        self._log = log.get()
        self._ready: list[ChildProcess] = []
        self._waiting: deque[Ticket] = deque()
        self._slots: list[asyncio.Task[None]] = []
        self._closed = False
        self._stopping = False

    def start(self) -> None:
        """Start all children; returns at once."""
        self._slots = [
            asyncio.create_task(keep_running("child", self._keep_one_alive), name=f"child-{slot}")
            for slot in range(self.count)
        ]

    def close(self) -> None:
        """Take no more slides: those that come, still on their way from the store, are Withdrawn."""
        self._closed = True

    async def stop(self) -> None:
        """End all children now; what they had is Withdrawn."""
        self._stopping = True
        for ticket in self._waiting:
            ticket.end(Withdrawn())
        self._waiting.clear()
        for child in self._ready:
            for ticket in child.pending.values():
                ticket.end(Withdrawn())
        for slot in self._slots:
            slot.cancel()
        await asyncio.gather(*self._slots, return_exceptions=True)

    @property
    def ready(self) -> int:
        """How many children can work."""
        return len(self._ready)

    @property
    def room(self) -> int:
        """How many more slides the children take now; none while they have plenty, so that many come at once."""
        free = sum(child.room for child in self._ready) - len(self._waiting)
        plenty = sum(child.depth.slides - SHALLOWEST for child in self._ready) // 2
        return free if free >= max(1, plenty) else 0

    @property
    def urgent_room(self) -> int:
        """How many more slides the children take now when they are urgent: a few even while there is no room."""
        return max(0, sum(child.urgent_room for child in self._ready) - len(self._waiting))

    @property
    def pids(self) -> list[int]:
        """The process ids of the children that can work."""
        return [child.pid for child in self._ready]

    @property
    def models(self) -> list[str]:
        """The model versions that a child has loaded, sorted."""
        return sorted(frozenset[str]().union(*(child.models for child in self._ready)))

    @property
    def able(self) -> Sequence[ChildProcess]:
        """The children that can work."""
        return self._ready

    def run(self, work: RunSlide | Combine) -> Ticket:
        """Give a slide to the child that has least to do, or to the next one that has room; urgent ones go first."""
        ticket = Ticket(work)
        if self._closed or self._stopping or not self._ready:
            ticket.end(Withdrawn())
            return ticket
        position = sum(waiting.urgent for waiting in self._waiting) if ticket.urgent else len(self._waiting)
        self._waiting.insert(position, ticket)
        self._deal()
        return ticket

    def withdraw(self, ticket: Ticket) -> bool:
        """End a slide as Withdrawn if it was not begun; False when it was."""
        if ticket in self._waiting:
            self._waiting.remove(ticket)
        elif not self._take_back(ticket):
            return False
        ticket.end(Withdrawn())
        self._changed()
        return True

    def load(self, version: str, digest: str, ended: Callable[[Ending], None]) -> int:
        """Have every child load a version that it was not asked for before; `ended` hears from each. Returns how many.

        A child that failed is asked again by the next call.
        """
        asked = 0
        for child in self._ready:
            if version in child.offered or version in child.models:
                continue
            child.offered.add(version)
            ticket = Ticket(LoadModel(0, version, digest))
            ticket.ending.add_done_callback(partial(self._loaded, child, version, ended))
            child.give(ticket)
            asked += 1
        return asked

    def spare(self, work: RunShadow) -> Ticket | None:
        """Give work that may wait to a child with nothing to do, best to one that has its version; None: there is none.

        Where there are several children, one of them is left without.
        """
        idle = [child for child in self._ready if child.idle]
        if self._closed or self._stopping or self._waiting or len(idle) < min(2, self.count):
            return None
        ticket = Ticket(work)
        max(idle, key=lambda child: work.version in child.models).give(ticket)
        return ticket

    def all_have(self, version: str) -> bool:
        """True when a child is ready and every ready one has this version loaded."""
        return bool(self._ready) and all(version in child.models for child in self._ready)

    @staticmethod
    def _loaded(
        child: ChildProcess, version: str, ended: Callable[[Ending], None], done: asyncio.Future[Ending]
    ) -> None:
        if isinstance(done.result(), Failed):
            child.offered.discard(version)
        ended(done.result())

    def _deal(self) -> None:
        while self._waiting:
            child = self._best_for(self._waiting[0])
            if child is None:
                return
            child.give(self._waiting.popleft())
        self._balance()

    def _best_for(self, ticket: Ticket) -> ChildProcess | None:
        if ticket.urgent:
            free = [child for child in self._ready if child.urgent_room]
            return max(free, key=lambda one: (one.idle, -one.urgent, one.urgent_room), default=None)
        return max((child for child in self._ready if child.room), key=lambda one: one.room, default=None)

    def _balance(self) -> None:
        """Move slides that wait behind other work to children that have nothing to do."""
        for idler in self._ready:
            if not idler.idle:
                continue
            late = [ticket for busy in self._ready for ticket in busy.late()]
            for ticket in sorted(late, key=lambda ticket: not ticket.urgent):
                if self._take_back(ticket):
                    idler.give(ticket)
                    break

    def _take_back(self, ticket: Ticket) -> bool:
        return any(child.take_back(ticket) for child in self._ready)

    async def _keep_one_alive(self) -> None:
        delay_s = FIRST_DELAY_S
        while True:
            born_s = self._clock()
            worked = await self._live()
            if self._stopping:
                return
            self._metrics.count("child_restarts")
            if worked or self._clock() - born_s > STEADY_S:
                delay_s = FIRST_DELAY_S
                continue
            await asyncio.sleep(delay_s * (0.5 + self._jitter()))
            delay_s = min(2 * delay_s, LAST_DELAY_S)

    async def _live(self) -> bool:
        """One child from start to end; True when it did some work."""
        try:
            child = await self._spawn()
        except OSError as error:
            self._log.error("child cannot be started", error=log.describe(error))
            return False
        try:
            async for messages in child.messages(self._limit_s):
                for message in messages:
                    self._heard(child, message)
                if not child.ready or all(isinstance(message, Started) for message in messages):
                    continue
                self._deal()
                if any(isinstance(message, Inferred) for message in messages):
                    self.freed()
                if not all(isinstance(message, Started | Inferred) for message in messages):
                    self._changed()  # an inference takes no room from slides: whoever leases them need not look again
        finally:
            await self._bury(child)
        return child.worked

    def _heard(self, child: ChildProcess, message: Message) -> None:
        match message:
            case Ready():
                self._ready.append(child)
                self._count_ready()
                self.grew.set()
            case CannotStart(detail):
                self._log.error("child cannot begin", error=detail)
            case Models():
                self._count_models()
            case EngineChosen(version, engine, tile_s, passed_over):
                rounded = {name: round(1000 * seconds, 3) for name, seconds in tile_s.items()}
                self._log.info(
                    "engine chosen", version=version, engine=engine, tile_ms=rounded, passed_over=passed_over
                )
            case VersionLoaded():
                self._served.loaded(message)
            case Failed(detail=detail) if detail:
                self._log.error("child met an unexpected error", error=detail)

    async def _bury(self, child: ChildProcess) -> None:
        if child in self._ready:
            self._ready.remove(child)
            self._count_ready()
        if self._stopping:
            child.kill()
        cause = await child.end(self._limit_s)
        if not self._stopping:
            self._log.warning("child died", cause=cause, pid=child.pid)
        if not self._ready:  # nobody knows how long: others shall have these slides
            while self._waiting:
                self._waiting.popleft().end(Withdrawn())
        self._count_models()
        self._changed()

    def _count_ready(self) -> None:
        self._metrics.set("children", len(self._ready))

    def _count_models(self) -> None:
        loaded = self.models
        self._served.serving(loaded)
        self._metrics.set("models_loaded", len(loaded))
        self._metrics.set("models_memory_bytes", sum(child.models_bytes for child in self._ready))
