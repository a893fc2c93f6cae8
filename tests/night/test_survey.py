"""The night in figures: every slide that was accepted is counted once, and records that disagree are told."""

from __future__ import annotations

from collections import Counter
from datetime import date

import pytest

from gramserve.night.earlier import NightRow, earlier
from gramserve.night.facts import NightFacts
from gramserve.night.survey import survey
from gramserve.night.timeline import bars, peak_per_hour, percentile
from gramserve.night.window import Night
from gramserve.store import layout
from gramserve.store.records import Priority, SlideState, TombstoneRecord
from tests.night.nights import DIGEST, EVENING, HOUR, NIGHT, ZONE, NightStore, call

S, F, C, E = SlideState.SUCCEEDED, SlideState.FAILED, SlideState.CANCELLED, SlideState.EXPIRED
MORNING = EVENING + 11 * HOUR


async def facts(store: NightStore) -> NightFacts:
    return await survey(store.objects, NIGHT, MORNING)


def test_a_night_is_from_noon_to_noon_also_where_the_clock_is_changed() -> None:
    assert NIGHT.end - NIGHT.begin == 24 * HOUR
    summer_ends = Night.of(date(2026, 10, 24), ZONE)
    assert summer_ends.end - summer_ends.begin == 25 * HOUR
    assert NIGHT.before(2).day == date(2026, 11, 23)


@pytest.mark.parametrize(("hour", "day"), [(7, 24), (13, 24), (17.9, 24), (18, 25), (23, 25)])
def test_the_last_night_is_the_one_that_began_on_the_last_evening(hour: float, day: int) -> None:
    midnight = NIGHT.begin - 12 * HOUR  # 25 November, 0:00
    assert Night.last(midnight + hour * HOUR, ZONE).day == date(2026, 11, day)


async def test_every_accepted_slide_is_in_the_sum_once(store: NightStore) -> None:
    due = EVENING + 6 * HOUR
    batch = await store.batch("b-all-ends", 5, deliver_by=due)
    await store.succeeded(batch, 0)
    await store.succeeded(batch, 1, call=call(review=["LOW_CONFIDENCE"]))
    await store.failed(batch, 2)
    await store.end(batch, "SSFEE", due + 10)
    stopped = await store.batch("b-stopped", 2)
    await store.cancel(stopped, EVENING + HOUR)
    await store.end(stopped, "CC", EVENING + HOUR + 1)
    found = await facts(store)
    assert found.accepted == 7
    assert found.states == {S: 2, F: 1, E: 2, C: 2}
    assert (found.open, found.review, found.adds_up, found.problems) == (0, 1, True, [])
    assert sum((states for states in found.ended.values()), start=Counter()) == found.states


async def test_slides_without_an_end_are_open_and_the_sum_does_not_hold(store: NightStore) -> None:
    batch = await store.batch("b-open", 3)
    await store.succeeded(batch, 0)
    found = await facts(store)
    assert (found.accepted, found.states[S], found.open, found.adds_up) == (3, 1, 2, False)
    assert found.problems == []


async def test_a_slide_that_is_tried_again_counts_by_its_last_round(store: NightStore) -> None:
    batch = await store.batch("b-again", 3)
    await store.succeeded(batch, 0)
    await store.failed(batch, 1)
    await store.failed(batch, 2)
    await store.end(batch, "SFF", EVENING + HOUR)
    await store.retry(batch, 1, [1, 2], EVENING + 2 * HOUR)
    found = await facts(store)
    assert (found.states, found.open, found.failures) == ({S: 1}, 2, {})
    await store.succeeded(batch, 1, round=1, time=EVENING + 2 * HOUR + 90, queue_s=60.0)
    found = await facts(store)
    assert (found.states, found.open) == ({S: 2}, 1)
    assert max(found.times[Priority.ROUTINE].run) == 30.0  # from the start of its round, not of its batch
    await store.failed(batch, 2, round=1)
    await store.end(batch, "SSF", EVENING + 3 * HOUR, number=1)
    found = await facts(store)
    assert (found.states, found.open, found.adds_up) == ({S: 2, F: 1}, 0, True)
    assert found.failures["CORRUPT_IMAGE"].count == 1


async def test_a_retry_that_expired_counts_the_slide_as_expired(store: NightStore) -> None:
    batch = await store.batch("b-late", 1, deliver_by=EVENING + HOUR)
    await store.failed(batch, 0)
    await store.end(batch, "F", EVENING + HOUR)
    await store.retry(batch, 1, [0], EVENING + 2 * HOUR)
    await store.end(batch, "E", EVENING + 2 * HOUR, number=1)
    found = await facts(store)
    assert (found.states, found.failures, found.adds_up) == ({E: 1}, {}, True)


async def test_only_slides_that_were_accepted_in_the_night_count(store: NightStore) -> None:
    for name, at in {"b-noon": NIGHT.begin, "b-last": NIGHT.end - 0.1, "b-before": NIGHT.begin - 0.1}.items():
        await store.batch(name, 1, at=at)
    await store.batch("b-after", 1, at=NIGHT.end)
    await store.batch("b-south", 4, at=EVENING, laboratory="south")
    found = await facts(store)
    assert {batch.batch for batch in found.batches} == {"b-noon", "b-last", "b-south"}
    assert found.accepted == 6


async def test_an_end_whose_counts_contradict_its_slides_is_told(store: NightStore) -> None:
    batch = await store.batch("b-wrong", 3)
    for index in range(3):
        await store.succeeded(batch, index)
    await store.end(batch, "SSS", EVENING + HOUR, succeeded=2)
    found = await facts(store)
    assert not found.adds_up
    assert "north/b-wrong: 3 slides were accepted, and its end counts 2 of 3" in found.problems


async def test_an_outcome_that_the_store_lost_is_told(store: NightStore) -> None:
    batch = await store.batch("b-lost", 2)
    await store.succeeded(batch, 0)
    await store.end(batch, "SS", EVENING + HOUR)
    found = await facts(store)
    assert found.accepted == found.states.total()
    assert not found.adds_up
    assert found.problems == ["north/b-lost: 1 slides have ended, and their outcomes are missing"]


async def test_an_outcome_that_contradicts_the_end_is_told(store: NightStore) -> None:
    batch = await store.batch("b-two-ends", 1)
    await store.failed(batch, 0)
    await store.end(batch, "C", EVENING + HOUR)
    assert (await facts(store)).problems == ["north/b-two-ends: slide 0 FAILED, but the end says C"]


async def test_a_call_by_another_artifact_than_the_batch_names_is_told(store: NightStore) -> None:
    batch = await store.batch("b-model", 1)
    await store.succeeded(batch, 0, artifact_digest="e" * 64)
    await store.end(batch, "S", EVENING + HOUR)
    found = await facts(store)
    assert not found.adds_up
    assert "another artifact" in found.problems[0]


async def test_failures_are_grouped_by_reason_and_the_first_one_is_named(store: NightStore) -> None:
    batch = await store.batch("b-fail", 4)
    await store.failed(batch, 0, "CORRUPT_IMAGE", wait_s=300)
    await store.failed(batch, 1, "CORRUPT_IMAGE", wait_s=30)
    await store.failed(batch, 2, "TIMEOUT")
    await store.succeeded(batch, 3)
    found = (await facts(store)).failures
    assert {reason: failures.count for reason, failures in found.items()} == {"CORRUPT_IMAGE": 2, "TIMEOUT": 1}
    first = found["CORRUPT_IMAGE"].first
    assert first is not None
    assert (first.slide_id, first.index) == ("b-fail-1", 1)


async def test_what_each_model_version_said_is_counted(store: NightStore) -> None:
    batch = await store.batch("b-said", 3)
    await store.succeeded(batch, 0)
    await store.succeeded(batch, 1, call=call("GPR", review=["LOW_CONFIDENCE"]))
    await store.succeeded(batch, 2, call=call() | {"outcome": "NO_ORGANISM_SEEN", "findings": []})
    other = await store.batch("b-other", 1, version="models/gram/versions/4")
    await store.succeeded(other, 0)
    models = (await facts(store)).models
    assert {version for version, _ in models} == {"models/gram/versions/3", "models/gram/versions/4"}
    use = models["models/gram/versions/3", DIGEST]
    assert (use.slides, use.review) == (3, 1)
    assert use.labels == {"GNR": 1, "GPR": 1}
    assert use.outcomes == {"ORGANISMS_SEEN": 2, "NO_ORGANISM_SEEN": 1}


async def test_wait_and_run_are_told_apart_and_by_priority(store: NightStore) -> None:
    stat = await store.batch("b-stat", 1, priority=Priority.STAT)
    await store.succeeded(stat, 0, wait_s=0.02, run_s=0.5)
    routine = await store.batch("b-routine", 2)
    await store.succeeded(routine, 0, wait_s=100, run_s=2)
    await store.succeeded(routine, 1, wait_s=200, run_s=4, reused=True)
    times = (await facts(store)).times
    assert list(times[Priority.STAT].wait) == [0.02]
    assert times[Priority.STAT].run[0] == pytest.approx(0.5)
    assert list(times[Priority.ROUTINE].wait) == [100, 200]
    assert list(times[Priority.ROUTINE].run) == [pytest.approx(2)]  # a reused call did not run


async def test_slides_that_ended_after_they_were_due_are_counted(store: NightStore) -> None:
    batch = await store.batch("b-due", 2, deliver_by=EVENING + 100)
    await store.succeeded(batch, 0, wait_s=90, run_s=2)
    await store.succeeded(batch, 1, wait_s=99, run_s=2)
    await store.end(batch, "SS", EVENING + 102)
    found = await facts(store)
    assert (found.late, found.batches[0].late) == (1, True)


async def test_slides_that_were_deleted_since_are_told_apart_from_the_sum(store: NightStore) -> None:
    stone = TombstoneRecord("gateway", MORNING, 0, EVENING, EVENING + HOUR, 9, "models/gram/versions/3", DIGEST)
    await store.objects.put("tombstones/north/b-gone.json", stone.to_json())
    found = await facts(store)
    assert (found.accepted, found.purged) == (0, 9)


async def test_an_earlier_night_has_the_same_counts_in_its_row_as_in_its_report(store: NightStore) -> None:
    batch = await store.batch("b-row", 4, deliver_by=EVENING + HOUR)
    await store.succeeded(batch, 0, call=call(review=["LOW_CONFIDENCE"]))
    await store.succeeded(batch, 1)
    await store.failed(batch, 2)
    await store.end(batch, "SSFE", EVENING + HOUR, review=1)
    await store.batch("b-other-night", 7, at=EVENING - 24 * HOUR)
    row, previous, empty = await earlier(store.objects, [NIGHT, NIGHT.before(1), NIGHT.before(2)])
    of_facts = NightRow.of(await facts(store))
    assert (row.accepted, +row.states, row.review, row.finished) == (
        of_facts.accepted,
        +of_facts.states,
        of_facts.review,
        of_facts.finished,
    )
    assert (row.failed_share, row.review_share) == (pytest.approx(1 / 3), 0.5)
    assert (previous.accepted, previous.open, empty.accepted, empty.failed_share) == (7, 7, 0, None)


async def test_a_retry_leaves_the_other_slides_of_an_earlier_night_as_they_ended(store: NightStore) -> None:
    batch = await store.batch("b-again", 3)
    await store.succeeded(batch, 0, call=call(review=["LOW_CONFIDENCE"]))
    await store.succeeded(batch, 1)
    await store.failed(batch, 2)
    await store.end(batch, "SSF", EVENING + HOUR, review=1)
    await store.retry(batch, 1, [2], EVENING + 2 * HOUR)
    [row] = await earlier(store.objects, [NIGHT])
    of_facts = NightRow.of(await facts(store))
    assert (+row.states, row.open, row.review, row.finished) == ({S: 2}, 1, 1, None)
    assert (+of_facts.states, of_facts.open, of_facts.review) == (+row.states, row.open, row.review)


async def two_called(store: NightStore, name: str) -> None:
    """A batch of the night with a call for each of its two slides."""
    batch = await store.batch(name, 2)
    await store.succeeded(batch, 0)
    await store.succeeded(batch, 1)
    await store.end(batch, "SS", EVENING + HOUR)


@pytest.mark.parametrize("path", ["final/0.json", "results/0/000001.json"])
async def test_a_damaged_record_of_one_batch_is_told_and_leaves_the_others_their_report(
    store: NightStore, path: str
) -> None:
    for name in ("b-whole", "b-damaged"):
        await two_called(store, name)
    await store.objects.put(f"batches/north/b-damaged/{path}", b"{")
    found = await facts(store)
    assert (found.accepted, found.states[S], found.open, found.adds_up) == (4, 2, 2, False)
    [problem] = found.problems
    assert problem.startswith("north/b-damaged: ")
    assert "damaged; restore it from a backup" in problem


async def test_a_batch_whose_manifest_is_missing_is_told_and_leaves_the_others_their_report(store: NightStore) -> None:
    for name in ("b-whole", "b-lost"):
        batch = await store.batch(name, 1)
        await store.succeeded(batch, 0, call=call(review=["LOW_CONFIDENCE"]))
        await store.end(batch, "S", EVENING + HOUR, review=1)
    await store.objects.delete(layout.chunk_path("north", "b-lost", 0))
    found = await facts(store)
    assert (found.accepted, found.states[S], found.open) == (2, 1, 1)
    assert found.problems == ["north/b-lost: a part of its manifest is missing; restore it from a backup"]


@pytest.mark.parametrize("path", [layout.batch_path("north", "b-lost"), layout.tombstone_path("north", "b-lost")])
async def test_a_batch_whose_night_cannot_be_read_is_counted_apart_and_told_in_every_night(
    store: NightStore, path: str
) -> None:
    for name in ("b-whole", "b-lost"):
        await two_called(store, name)
    await store.objects.delete_folder("batches/north/b-lost")
    await store.objects.put(path, b"{")
    for night, accepted in ((NIGHT, 2), (NIGHT.before(1), 0)):
        found = await survey(store.objects, night, MORNING)
        assert (found.accepted, found.open, found.damaged, found.adds_up) == (accepted, 0, 1, False)
        [problem] = found.problems
        assert problem.startswith("north/b-lost: the record of what was ")
        assert "restore it from a backup" in problem
    [row] = await earlier(store.objects, [NIGHT])
    assert (row.accepted, row.states[S]) == (2, 2)


async def test_a_damaged_end_of_an_earlier_night_leaves_its_slides_open(store: NightStore) -> None:
    for name in ("b-whole", "b-damaged"):
        batch = await store.batch(name, 1)
        await store.end(batch, "S", EVENING + HOUR)
    await store.objects.put("batches/north/b-damaged/final/0.json", b"{")
    [row] = await earlier(store.objects, [NIGHT])
    assert (row.accepted, row.open, row.states[S]) == (2, 1, 1)


async def test_the_timeline_has_a_bar_for_each_quarter_of_an_hour_without_gaps(store: NightStore) -> None:
    batch = await store.batch("b-time", 3)
    await store.succeeded(batch, 0, wait_s=60)
    await store.succeeded(batch, 1, wait_s=61)
    await store.failed(batch, 2, wait_s=3700)
    ended = (await facts(store)).ended
    shown = bars(ended)
    assert [bar.states.total() for bar in shown] == [2, 0, 0, 0, 1]
    assert [bar.start - shown[0].start for bar in shown] == [0, 900, 1800, 2700, 3600]
    assert peak_per_hour(ended) == 8
    assert shown[0].start == EVENING


def test_a_long_night_has_wider_bars_and_loses_nothing() -> None:
    ended = {EVENING + number * 900.0: Counter({S: 1}) for number in range(400)}
    shown = bars(ended)
    assert len(shown) <= 144
    assert sum(bar.states.total() for bar in shown) == 400


def test_a_percentile_is_a_value_that_occurred() -> None:
    times = NightFacts(NIGHT, 0).times[Priority.STAT].wait
    assert percentile(times, 0.5) is None
    times.extend(range(1, 101))
    assert [percentile(times, share) for share in (0.5, 0.95, 0.99, 1.0)] == [50, 95, 99, 100]
