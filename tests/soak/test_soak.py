"""The soak itself: a short night is without faults, what it would find it finds, and its slope is right."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from gramserve.client import GramserveClient
from gramserve.store.objects import open_store
from gramserve.v1.slide_pb2 import Slide
from tests.soak import checks
from tests.soak.checks import Tally
from tests.soak.memory import Sample, slope, slopes
from tests.soak.night import Night
from tests.soak.specimens import fault, specimens
from tests.soak.stack import Stack, running

LINE = [Sample(t_s, "gateway", "1@0", 80 + 6 * t_s / 3600) for t_s in range(0, 3600, 5)]


def test_memory_that_grows_by_six_mib_an_hour_is_seen_to_do_so() -> None:
    found = slope(LINE, warm_up_s=300, shortest_s=300)
    assert found is not None
    assert found.mib_per_h == pytest.approx(6)
    assert found.low <= found.mib_per_h <= found.high


def test_lives_of_other_levels_do_not_look_like_growth() -> None:
    flat = [Sample(t_s, "child", "1@0", 80 + t_s // 60 % 2) for t_s in range(0, 1800, 5)]
    flat += [Sample(t_s, "child", "2@1800", 120 + t_s // 60 % 2) for t_s in range(1800, 3600, 5)]
    found = slope(flat, warm_up_s=0, shortest_s=300)
    assert found is not None
    assert found.low < 0 < found.high
    assert found.lives == 2


def test_the_interval_holds_the_truth_although_each_minute_resembles_the_one_before() -> None:
    held = 0
    for seed in range(200):
        dice, mib, samples = random.Random(seed), 0.0, []
        for minute in range(60):
            mib = 0.7 * mib + dice.gauss(0, 0.1)
            samples.append(Sample(60.0 * minute, "gateway", "1@0", 50 + mib))
        found = slope(samples, warm_up_s=0, shortest_s=300)
        assert found is not None
        held += found.low < 0 < found.high
    assert held >= 170, "of 200 intervals of 95 % that many hold the truth: a few less than nominal with so few minutes"


def test_the_second_half_of_a_witness_does_not_show_what_filled_before() -> None:
    filling = [Sample(t_s, "gateway", "1@0, witness", 50 + min(t_s, 1500) / 500) for t_s in range(0, 3600, 5)]
    found = slopes(filling, 60)
    whole, late = found["gateway (witness)"], found["gateway (witness, second half)"]
    assert whole is not None
    assert late is not None
    assert whole.mib_per_h > 0.5
    assert late.mib_per_h == pytest.approx(0)


def test_too_few_samples_give_no_slope() -> None:
    assert slope(LINE[:10], warm_up_s=0, shortest_s=0) is None
    assert slope(LINE, warm_up_s=3600, shortest_s=300) is None


def test_what_ends_in_a_way_that_it_must_not_is_a_fault() -> None:
    known = {specimen.name: specimen for specimen in specimens()}
    good, bad = known["GPR-64-png"], known["bomb"]
    called = Slide(state=Slide.STATE_SUCCEEDED)
    called.call.findings.add(label="GPR")
    assert fault(good, called, "", stopped=False) == ""
    assert "GNR-64-png was called" in fault(known["GNR-64-png"], called, "", stopped=False)
    assert "bomb was called" in fault(bad, called, "", stopped=False)
    failed = Slide(state=Slide.STATE_FAILED)
    assert fault(bad, failed, "IMAGE_TOO_LARGE", stopped=False) == ""
    assert "failed with ENGINE_FAILED" in fault(good, failed, "ENGINE_FAILED", stopped=False)
    assert "nobody had asked" in fault(good, Slide(state=Slide.STATE_CANCELLED), "", stopped=False)
    assert "STATE_RUNNING" in fault(good, Slide(state=Slide.STATE_RUNNING), "", stopped=True)


async def what_is_found_when_an_outcome_is_lost(stack: Stack, night: Night) -> str:
    """The check has to see it."""
    store, batch = open_store(stack.store), night.batches[0]
    (path, *_) = [entry.path async for entry in store.list(f"batches/default/{batch.id}/results")]
    await store.delete(path)
    async with GramserveClient(stack.gateways[0]) as client:
        return "; ".join([wrong async for wrong in checks.batch_is_right(client, stack, batch, Tally())])


@pytest.mark.slow
async def test_I1_I2_I3_I8_I9_a_short_night_of_chaos_loses_and_repeats_nothing(tmp_path: Path) -> None:
    lines: list[str] = []
    quick = [specimen for specimen in specimens() if specimen.behaviour not in ("hang", "slow")]
    async with running(tmp_path / "soak") as stack:
        night = Night(
            stack, tmp_path / "soak", 5, lines.append, round_s=5.0, clients=(2, 2), pause_s=(0.3, 2.0), known=quick
        )
        await night.run(0.05)
        assert "differ" in await what_is_found_when_an_outcome_is_lost(stack, night)
        await stack.redis.hset("{gs:slides}:entry:default/b/000000", "attempts", 1)
        assert [wrong async for wrong in checks.nothing_is_left(stack)] == ["I9: 1 keys entry:* are left in Redis"]
    assert night.tally.faults == [], "\n".join(lines)
    assert not night.errors
    assert night.tally.slides
    assert night.tally.wounds
