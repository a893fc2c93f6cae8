"""The trace of one slide in the worker: how long it waited, ran by steps, was written and completed."""

from __future__ import annotations

from collections.abc import Callable

from gramserve.store.records import OutcomeRecord
from gramserve.tracing import NOTHING, Span, Tracer
from inference_svc.plausible import STAGES
from inference_svc.protocol import Finished
from inference_svc.slide import Slide
from inference_svc.work import Ending


class SlideTrace:
    """Told what becomes of a slide, in order. `now_s` gives Unix seconds."""

    def __init__(self, span: Span, now_s: Callable[[], float]) -> None:
        self._span = span
        self._now_s = now_s
        self._since_s = now_s()
        self._failed = ""

    def ran(self, ending: Ending) -> None:
        """A child is done with it. Steps come and go many times in a slide: their sums stand one behind the other."""
        end_s = self._now_s()
        run = self._span.part("run", self._since_s, end_s, gramserve__ending=type(ending).__name__)
        if isinstance(ending, Finished):
            run.set(gramserve__tiles=ending.tiles, gramserve__engine=ending.engine, gramserve__reused=ending.reused)
            steps = [(step, ending.stages[step]) for step in STAGES if step in ending.stages]
            at_s = end_s - sum(seconds for _, seconds in steps)
            for step, seconds in steps:
                run.part(step, at_s, at_s + seconds)
                at_s += seconds
        self._since_s = end_s

    def stored(self, outcome: OutcomeRecord) -> None:
        """Its outcome is durable."""
        self._part("store")
        self._failed = outcome.error.reason if outcome.error else ""
        self._span.set(gramserve__state=outcome.state.value, gramserve__review=outcome.review_required)

    def completed(self) -> None:
        """The queue knows that it has ended."""
        self._part("complete")

    def end(self) -> None:
        """It is not held any more."""
        self._span.end(failed=self._failed)

    def _part(self, name: str) -> None:
        end_s = self._now_s()
        self._span.part(name, self._since_s, end_s)
        self._since_s = end_s


UNTRACED = SlideTrace(NOTHING, lambda: 0.0)


def begin(tracer: Tracer, slide: Slide, parent: str, now_s: Callable[[], float], held_s: float) -> SlideTrace:
    """The trace of a slide that was leased `held_s` ago, of a batch with the trace `parent` ("": none)."""
    if not parent:
        return UNTRACED
    leased_s = now_s() - held_s
    span = tracer.go_on("slide", parent, start_s=leased_s - slide.lease.queued_s)
    _, model, _, version = slide.lease.version.split("/")
    span.set(gramserve__model=model, gramserve__version=version, gramserve__attempt=slide.attempts)
    span.set(gramserve__priority=slide.priority.value)
    span.part("queue", leased_s - slide.lease.queued_s, leased_s)
    return SlideTrace(span, now_s)
