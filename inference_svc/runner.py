"""The life of one slide: given to a child, its outcome written to the store, then completed in the queue."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from gramserve import log
from gramserve.errors import GramserveError, NotFound, Reason
from gramserve.metrics import Metrics
from gramserve.queue import Queue
from gramserve.store.batches import BatchStore
from gramserve.store.records import BatchRecord, ErrorRecord, OutcomeRecord, SlideRecord, SlideState
from gramserve.store.reuse import reuse_key
from gramserve.tracing import OFF, Tracer
from inference_svc.children import Children
from inference_svc.completer import Completer
from inference_svc.contact import Contact
from inference_svc.divide import run_divided
from inference_svc.protocol import Divide, Failed, Finished, Loaded, Part, RunSlide
from inference_svc.recorder import AWAY, DEADLINE_PAUSE_S, STORE_PAUSE_S, Recorder
from inference_svc.served import Served
from inference_svc.slide import Held, Slide
from inference_svc.storage import Storage
from inference_svc.trace import UNTRACED, SlideTrace, begin
from inference_svc.work import Crashed, TimedOut, Withdrawn

T = TypeVar("T")

MAX_DELAY_S = 60.0

# What a slide fails with when the store is away; a folder that is not mounted looks like missing objects.
_MAYBE_THE_STORE = {Reason.STORE_UNAVAILABLE, Reason.REFERENCE_NOT_FOUND, Reason.MODEL_UNAVAILABLE}


class Runner:
    """Runs slides. `clock` is monotonic seconds, `wall` Unix seconds, `jitter` gives 0 to 1.

    A slide is tried `max_attempts` times when its errors could pass, `retry_delay_s` apart at first. `reuse_results`:
    slides whose pixels were called before get that call, unless their batch says otherwise. `handed_over` hears of each
    slide with a call, once that is written and the slide completed.
    """

    def __init__(
        self,
        *,
        worker: str,
        queue: Queue,
        store: BatchStore,
        children: Children,
        recorder: Recorder,
        completer: Completer,
        held: Held,
        contact: Contact,
        storage: Storage,
        metrics: Metrics,
        served: Served,
        handed_over: Callable[[Slide, RunSlide, Finished], None],
        max_attempts: int,
        retry_delay_s: float,
        reuse_results: bool,
        clock: Callable[[], float],
        wall: Callable[[], float],
        jitter: Callable[[], float],
        tracer: Tracer = OFF,
    ) -> None:
        self._worker = worker
        self._queue = queue
        self._store = store
        self._children = children
        self._recorder = recorder
        self._completer = completer
        self._held = held
        self._contact = contact
        self._storage = storage
        self._metrics = metrics
        self._served = served
        self._handed_over = handed_over
        self._max_attempts = max_attempts
        self._retry_delay_s = retry_delay_s
        self._reuse_results = reuse_results
        self._clock = clock
        self._wall = wall
        self._jitter = jitter
        self._tracer = tracer
        self._traces: dict[Slide, SlideTrace] = {}
        self._log = log.get()

    async def run(self, slide: Slide) -> None:
        """From the lease to the end; whatever happens, the slide is not held afterwards."""
        if slide.attempts == 1:
            self._metrics.observe("slide_wait_seconds", slide.lease.queued_s, priority=slide.priority.value)
        try:
            await self._run(slide)
        except Exception as error:
            # Not completed and not renewed any more: it is reclaimed and counts as a crash, which bounds how often.
            self._log.error("slide could not be run", batch=slide.lease.batch, error=log.describe(error))
        finally:
            self._held.remove(slide)
            if (trace := self._traces.pop(slide, None)) is not None:
                trace.end()

    async def give_back(self, slide: Slide) -> None:
        """Release a slide uncharged."""
        await self._until_told(slide, lambda: self._queue.release([slide.lease], self._worker))

    async def _run(self, slide: Slide) -> None:
        began_s = self._clock()
        if slide.attempts > 1 and (outcome := await self._recorded(slide)) is not None:
            # An earlier delivery got as far as the store: it is the result (I2).
            await self._complete(slide, outcome)
            return
        record, batch = await self._about(slide)
        if slide.gone():
            return
        if record is None:
            await self._fail(slide, Reason.REFERENCE_NOT_FOUND, "The slide is not in its batch's manifest.", began_s)
            return
        trace = self._traced(slide, batch)
        reuse = self._reuse_key(slide, record, batch)
        lease = slide.lease
        work = RunSlide(
            0,
            slide.laboratory,
            record.images,
            lease.version,
            lease.digest,
            specimen_type=record.specimen_type,
            urgent=lease.stat,
            reuse=reuse,
            deadline_s=slide.begins_before_s(batch.deliver_by if batch is not None else None),
        )
        slide.ticket = self._children.run(work)
        ending = await slide.ticket.ending
        if isinstance(ending, Divide):
            ending = await run_divided(self._children, work, ending, gone=slide.gone)
        trace.ran(ending)
        if slide.gone():
            return
        match ending:
            case Finished():
                await self._succeed(slide, ending, began_s, reuse)
                self._handed_over(slide, work, ending)
            case Failed():
                await self._failed(slide, ending, began_s)
            case Crashed(cause):
                await self._crashed(slide, cause, began_s)
            case TimedOut(limit_s, cpu=True):
                message = f"The slide used more than the {limit_s:g} s of CPU time that one may use."
                await self._try_again(slide, Reason.CPU_TIME_EXCEEDED, message, began_s)
            case TimedOut(limit_s):
                message = f"The slide took longer than the {limit_s:g} s that one may take."
                await self._try_again(slide, Reason.SLIDE_TIMEOUT, message, began_s)
            case Withdrawn() | Loaded() | Divide() | Part():
                await self.give_back(slide)

    async def _about(self, slide: Slide) -> tuple[SlideRecord | None, BatchRecord | None]:
        """The slide and its batch as they were accepted; None for what is missing, or when the lease was lost."""

        async def record() -> SlideRecord | None:
            return await self._in_store(slide, lambda: self._slide_record(slide))

        async def batch() -> BatchRecord | None:
            return await self._in_store(slide, lambda: self._store.get_batch(slide.laboratory, slide.batch))

        if slide.lease.stat:  # most come alone, so nobody has read these before: side by side they take half as long
            return await asyncio.gather(record(), batch())
        return await record(), await batch()

    async def _slide_record(self, slide: Slide) -> SlideRecord | None:
        try:
            return await self._store.slide(slide.laboratory, slide.batch, slide.lease.index)
        except NotFound:
            return None

    def _reuse_key(self, slide: Slide, record: SlideRecord, batch: BatchRecord | None) -> str:
        """The name under which a call of the same pixels would be kept; "" where it must not be used."""
        if not self._reuse_results or batch is None or not batch.reuse_results:
            return ""
        return reuse_key(slide.lease.digest, record.images, record.specimen_type)

    def _traced(self, slide: Slide, batch: BatchRecord | None) -> SlideTrace:
        """The trace of the slide, from its acceptance on, where its batch is traced."""
        if batch is None:
            return UNTRACED
        held_s = self._clock() - slide.leased_s
        return self._traces.setdefault(slide, begin(self._tracer, slide, batch.trace, self._wall, held_s))

    # How a run ended.

    async def _succeed(self, slide: Slide, ending: Finished, began_s: float, reuse: str) -> None:
        outcome = self._outcome(
            slide,
            SlideState.SUCCEEDED,
            call=ending.call,
            engine=ending.engine,
            digest=ending.digest,
            inference_s=ending.inference_s,
            reused=ending.reused,
        )
        self._metrics.count("tiles", ending.tiles)
        if ending.reused:
            self._metrics.count("slides_reused")
        for stage, seconds in ending.stages.items():
            self._metrics.observe("slide_stage_seconds", seconds, stage=stage)
        await self._record(slide, outcome, began_s, keep="" if ending.reused else reuse)
        if not slide.gone():  # else somebody else runs it, and counts it
            self._served.called(slide.lease.version, ending)

    async def _failed(self, slide: Slide, ending: Failed, began_s: float) -> None:
        reason = Reason(ending.reason)
        if ending.cause:
            self._metrics.count("model_load_failures", reason=ending.cause)
        if reason is Reason.DEADLINE_PASSED:
            # It had not begun, so it has not failed: given back in a batch whose time is over it becomes EXPIRED (I12).
            await self.give_back(slide)
        elif reason in _MAYBE_THE_STORE and (self._storage.was_away(began_s) or not await self._storage.check()):
            # The store is, or was, away for everybody: that is not the fault of this slide.
            await self.give_back(slide)
        elif ending.retryable:
            await self._try_again(slide, reason, ending.message, began_s)
        else:
            await self._fail(slide, reason, ending.message, began_s)

    async def _crashed(self, slide: Slide, cause: str, began_s: float) -> None:
        crashes = slide.lease.crashes + 1
        self._log.warning("slide crashed its child", batch=slide.lease.batch, crashes=crashes, cause=cause)
        if crashes >= self._queue.max_crashes:
            self._metrics.count("slides_quarantined")
            message = f"The slide ended its process {crashes} times ({cause}); it is not tried again by itself."
            await self._fail(slide, Reason.WORKER_CRASHED, message, began_s)
            return
        self._metrics.count("slide_retries", reason=Reason.WORKER_CRASHED)
        await self._put_back(slide, crash=True, delay_s=0.0)

    async def _try_again(self, slide: Slide, reason: Reason, message: str, began_s: float) -> None:
        attempts = slide.lease.attempts + 1
        if attempts >= self._max_attempts:
            await self._fail(slide, reason, message, began_s)
            return
        self._metrics.count("slide_retries", reason=reason)
        # Half fixed, half random: slides that failed together do not come back together.
        delay_s = min(self._retry_delay_s * 2.0 ** (attempts - 1), MAX_DELAY_S) * (0.5 + self._jitter())
        await self._put_back(slide, crash=False, delay_s=delay_s)

    async def _fail(self, slide: Slide, reason: Reason, message: str, began_s: float) -> None:
        outcome = self._outcome(slide, SlideState.FAILED, error=ErrorRecord(reason, message), digest=slide.lease.digest)
        await self._record(slide, outcome, began_s)

    # What is written.

    def _outcome(
        self,
        slide: Slide,
        state: SlideState,
        *,
        digest: str,
        call: dict[str, object] | None = None,
        error: ErrorRecord | None = None,
        engine: str = "",
        inference_s: float = 0.0,
        reused: bool = False,
    ) -> OutcomeRecord:
        return OutcomeRecord(
            index=slide.lease.index,
            round=slide.lease.round,
            state=state,
            call=call,
            error=error,
            attempts=slide.attempts,
            worker_id=self._worker,
            artifact_digest=digest,
            engine=engine,
            queue_s=slide.lease.queued_s,
            inference_s=inference_s,
            time=self._wall(),
            reused=reused,
        )

    async def _record(self, slide: Slide, outcome: OutcomeRecord, began_s: float, keep: str = "") -> None:
        """Write the outcome, or take the one that is there already, then complete the slide.

        `keep` is the key under which later slides of the same pixels find it.
        """
        ran_s = self._clock()
        created = await self._recorder.record(slide, outcome, keep)
        if slide.gone() or created is None:
            return
        stored = outcome if created else await self._recorded(slide)
        if stored is None:
            return
        self._metrics.observe("slide_stage_seconds", ran_s - began_s, stage="run")
        trace = self._traces.get(slide, UNTRACED)
        trace.stored(stored)
        now_s = self._clock()
        self._metrics.observe("slide_stage_seconds", now_s - ran_s, stage="store")
        total_s = slide.lease.queued_s + now_s - slide.leased_s
        self._metrics.observe("slide_seconds", total_s, priority=slide.priority.value)
        await self._complete(slide, stored)
        trace.completed()

    async def _complete(self, slide: Slide, outcome: OutcomeRecord) -> None:
        accepted = await self._completer.complete(slide, outcome.state, review=outcome.review_required)
        if accepted:
            reason = outcome.error.reason if outcome.error else ""
            self._metrics.count("slides_finished", state=outcome.state, reason=reason)
        elif accepted is False:
            self._metrics.count("fenced", transition="complete")

    async def _put_back(self, slide: Slide, *, crash: bool, delay_s: float) -> None:
        accepted = await self._until_told(
            slide, lambda: self._queue.fail(slide.lease, self._worker, crash=crash, delay_s=delay_s)
        )
        if accepted is False:
            self._metrics.count("fenced", transition="fail")

    async def _recorded(self, slide: Slide) -> OutcomeRecord | None:
        """The outcome of this slide in this round that is in the store."""
        outcome = await self._in_store(
            slide, lambda: self._store.outcome(slide.laboratory, slide.batch, slide.lease.index)
        )
        return outcome if outcome is not None and outcome.round == slide.lease.round else None

    # How it is written: for as long as the lease is ours, however long the store or Redis is away.

    async def _in_store(self, slide: Slide, step: Callable[[], Awaitable[T]]) -> T | None:
        """What `step` reads, tried until the store answers; None when the lease was lost before."""
        while not slide.gone():
            try:
                return await step()
            except GramserveError as error:
                if error.reason not in AWAY:
                    raise
                self._storage.trouble()
                await asyncio.sleep(STORE_PAUSE_S * (0.5 + self._jitter()))
        return None

    async def _until_told(self, slide: Slide, step: Callable[[], Awaitable[T]]) -> T | None:
        """The result of `step`, tried until the queue answers; None when the lease was lost before."""
        while not slide.gone():
            if not slide.may_write(self._clock()):
                await asyncio.sleep(DEADLINE_PAUSE_S)
                continue
            try:
                result = await step()
            except GramserveError:
                await asyncio.sleep(self._contact.failed())
            else:
                self._contact.answered()
                return result
        return None
