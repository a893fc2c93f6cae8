"""Following a batch across outages: what was reported is not reported again."""

from __future__ import annotations

from gramserve.v1.slide_batch_pb2 import SlideBatch
from gramserve.v1.slide_batch_service_pb2 import WatchSlideBatchResponse
from gramserve.v1.slide_pb2 import Slide

TERMINAL_BATCH_STATES = frozenset(
    {
        SlideBatch.STATE_SUCCEEDED,
        SlideBatch.STATE_PARTIALLY_SUCCEEDED,
        SlideBatch.STATE_FAILED,
        SlideBatch.STATE_CANCELLED,
        SlideBatch.STATE_EXPIRED,
    }
)
TERMINAL_SLIDE_STATES = frozenset(
    {Slide.STATE_SUCCEEDED, Slide.STATE_FAILED, Slide.STATE_CANCELLED, Slide.STATE_EXPIRED}
)
# A failed slide runs again when its batch is retried; these do not.
_FINAL_FOR_EVER = TERMINAL_SLIDE_STATES - {Slide.STATE_FAILED}


EVENTS_TOGETHER = 100


def one_by_one(response: WatchSlideBatchResponse) -> list[WatchSlideBatchResponse]:
    """The events of a response, each as if it had come by itself."""
    further = list(response.further)
    response.ClearField("further")
    return [response, *further]


class Reported:
    """What one watcher has seen of a batch: the last sequence, and the last state of each slide and of the batch.

    After the queue of a batch was rebuilt its events jump to a far higher sequence and repeat what was said before.
    """

    def __init__(self, after_sequence: int = 0) -> None:
        self.sequence = after_sequence
        self._slides: dict[int, tuple[int, int]] = {}
        self._batch: tuple[int, int] | None = None

    @property
    def ended(self) -> bool:
        """True when the last that was told of the batch is its end."""
        return self._batch is not None and self._batch[1] in TERMINAL_BATCH_STATES

    def is_new(self, event: WatchSlideBatchResponse) -> bool:
        """True when `event` tells something that no earlier one told; remembers it."""
        heartbeat = event.sequence <= self.sequence and event.WhichOneof("event") == "slide_batch"
        self.sequence = max(self.sequence, event.sequence)
        if event.WhichOneof("event") == "slide":
            return self._slide_is_new(event.slide)
        state = (event.slide_batch.retry_round, event.slide_batch.state)
        ended = event.slide_batch.state in TERMINAL_BATCH_STATES
        if state == self._batch or (heartbeat and not ended):
            return False
        self._batch = state
        return True

    def _slide_is_new(self, slide: Slide) -> bool:
        state = (slide.state, slide.attempt_count)
        last = self._slides.get(slide.index)
        if last is not None and (last[0] in _FINAL_FOR_EVER or last == state):
            return False
        if last is not None and last[0] == slide.state == Slide.STATE_FAILED:
            return False
        self._slides[slide.index] = state
        return True
