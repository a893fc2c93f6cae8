"""One slide of 32 is poison: it is quarantined with its cause, and the 31 others are done."""

from __future__ import annotations

import pytest

from tests.faults.harness import Site
from tests.faults.matrix import Fault
from tests.faults.test_kills import outcomes

# Word, reason, what the message names, how often it ran.
POISONS = [
    ("segfault", "WORKER_CRASHED", "SIGSEGV", 3),
    ("abort", "WORKER_CRASHED", "SIGABRT", 3),
    ("exit", "WORKER_CRASHED", "exit status 0", 3),
    ("exhaust", "OUT_OF_MEMORY", "memory", 2),
    ("spin", "SLIDE_TIMEOUT", "longer than", 2),
    ("raise", "ENGINE_FAILED", "", 2),
]


@pytest.mark.parametrize(
    ("word", "reason", "cause", "times"),
    [
        pytest.param(*poison, id=poison[0], marks=[pytest.mark.whole] if poison[0] != "segfault" else [])
        for poison in POISONS
    ],
)
async def test_I7_one_poisonous_slide_of_32_is_quarantined_and_the_others_are_done(
    site: Site, fault: Fault, word: str, reason: str, cause: str, times: int
) -> None:
    fault(f"poison: 1 slide of 32, {word}", invariants="I7")
    await site.gateway()
    await site.worker(children=2, max_attempts=2, slide_timeout_s=8.0)
    images = site.pictures(*["ok"] * 32)
    images[13] = poison = site.picture(word)
    name = await site.create(images)
    fault.inject()
    found = await fault.proved(site)
    assert found.ended == {"SUCCEEDED": 31, "FAILED": 1}
    results = await outcomes(site, name)
    error = results[13].error
    assert error is not None
    assert (error.reason, results[13].attempts) == (reason, times)
    assert cause in error.message
    assert len(site.runs(poison)) == times
    assert {results[index].attempts for index in results if index != 13} == {1}
    # The worker serves on: the same 31 and one more, all well.
    again = await site.create(site.pictures("ok", "ok"))
    assert {outcome.state.value for outcome in (await _done(site, again)).values()} == {"SUCCEEDED"}


async def _done(site: Site, name: str) -> dict[int, object]:
    await site.ended(name)
    return dict(await outcomes(site, name))
