"""What a worker process shows to Prometheus after slides of every kind: over HTTP, each figure as it was."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import generate_latest

from gramserve.calls import BANDS
from gramserve.metrics import Metrics
from gramserve.runtime.tally import REFERENCE
from gramserve.samples import LABELS
from gramserve.store.records import ImageRecord
from inference_svc.protocol import Finished, VersionLoaded
from inference_svc.served import MOST_ENGINES, MOST_LABELS, MOST_VERSIONS, Served
from tests.artifacts import coloured_file
from tests.exposition import Exposition, free_port, scrape
from tests.inference.bench import Bench
from tests.waiting import until

SHARES = {"labels": dict.fromkeys(LABELS, 0.2), "bands": {**dict.fromkeys(BANDS, 0.0), "0.9": 0.75, "0.8": 0.25}}
GRAM = {"model": "gram", "version": "1"}


async def _tile(bench: Bench, label: str, width: int) -> ImageRecord:
    """A field of one tile."""
    return await bench.image(coloured_file(label, width, 64))


async def _after_a_batch(bench: Bench) -> tuple[Exposition, int]:
    """A scrape of a worker process that ran eight slides, and how many tiles those had."""
    version = await bench.publish(evaluation={REFERENCE: SHARES})
    rods = await _tile(bench, "GNR", 64)
    slides: list[Any] = [
        rods,
        await _tile(bench, "BACKGROUND", 64),
        [await _tile(bench, "GNR", 63), await _tile(bench, "GPC_CLUSTERS", 64)],  # two organisms
        await bench.image(coloured_file("GPR", 200, 130)),  # a grid of 12 tiles
        await bench.image(b""),
    ]
    port = free_port()
    async with bench.process(metrics_port=port, children=1):
        await bench.submit(slides, version)
        await bench.ended()
        await bench.submit([rods], version, batch="b2")
        await bench.ended("b2")
        await bench.submit([await _tile(bench, "GNR", 62)], version, batch="b3", stat=True)
        await bench.ended("b3")
        # Counted by the parent after the slide was completed.
        await until(lambda: _shows(port, "slides_called_total", 6), what="the last slide is counted")
        return await scrape(port), 1 + 1 + 2 + 12 + 1


async def _shows(port: int, name: str, value: float) -> bool:
    return (await scrape(port)).total(name) == value


async def test_a_worker_says_how_slides_ended_and_how_long_each_step_took(bench: Bench) -> None:
    shown, tiles = await _after_a_batch(bench)
    assert shown.value("slides_finished_total", state="SUCCEEDED", reason="") == 6
    assert shown.value("slides_finished_total", state="FAILED", reason="EMPTY_IMAGE") == 1
    assert shown.value("slides_finished_total", state="FAILED", reason="CORRUPT_IMAGE") == 0
    assert shown.value("tiles_total") == tiles
    assert shown.value("slides_reused_total") == 1
    for name in ("slide_wait_seconds", "slide_seconds"):
        assert shown.value(f"{name}_count", priority="STAT") == 1
        assert shown.value(f"{name}_count", priority="ROUTINE") == 6
        assert (shown.value(f"{name}_sum", priority="ROUTINE") or 0) > 0
    waited, took = (shown.value(f"{name}_sum", priority="STAT") for name in ("slide_wait_seconds", "slide_seconds"))
    assert waited is not None
    assert took is not None
    assert waited < took
    for stage, slides in {"run": 7, "store": 7, "load": 5, "fetch": 6, "decode": 5, "infer": 5, "aggregate": 5}.items():
        assert shown.value("slide_stage_seconds_count", stage=stage) == slides, stage
    assert shown.value("slide_running_seconds") == 0
    [build] = shown.series("build_info")
    assert dict(build)["version"][0].isdigit()
    # What another service knows is not shown as nothing: 0 free bytes would be an alarm.
    for name in ("store_free_bytes", "redis_memory_bytes", "queue_depth", "slides_due", "optimizations_running"):
        assert not shown.series(name)


async def test_a_worker_says_what_is_loaded_what_that_called_and_what_its_children_use(bench: Bench) -> None:
    shown, tiles = await _after_a_batch(bench)
    assert shown.value("slides_called_total", **GRAM) == 6
    calls = {call: shown.value("calls_total", **GRAM, call=call) for call in ("GNR", "GPR", "GPC_CLUSTERS")}
    assert calls == {"GNR": 4, "GPR": 1, "GPC_CLUSTERS": 1}
    assert shown.value("calls_total", **GRAM, call="NO_ORGANISM_SEEN") == 1
    assert shown.value("calls_total", **GRAM, call="MIXED_ORGANISMS_SEEN") == 1
    assert shown.value("calls_total", **GRAM, call="UNASSESSABLE") == 0
    assert shown.value("call_confidence_count", **GRAM) == 5
    # The slide with two organisms: of each only one of its two tiles, which makes the mean 0.5.
    assert shown.value("call_confidence_bucket", **GRAM, le="0.5") == 1
    assert shown.value("call_confidence_bucket", **GRAM, le="0.4") == 0
    # What was reused was read before, and counts once.
    by_label = {label: shown.value("tile_calls_total", **GRAM, label=label) for label in LABELS}
    assert by_label == {"GNR": 3, "BACKGROUND": 1, "GPC_CLUSTERS": 1, "GPR": 12, "GPC_PAIRS_CHAINS": 0}
    assert shown.value("tile_scores_total", **GRAM, band="0.9") == tiles
    assert shown.value("tile_scores_total", **GRAM, band="0.5") == 0
    assert shown.value("slides_for_review_total", **GRAM) == shown.total("review_reasons_total") == 1

    # The validation split of what is loaded.
    assert {shown.value("reference_tile_calls", **GRAM, label=label) for label in LABELS} == {0.2}
    assert shown.value("reference_tile_scores", **GRAM, band="0.9") == 0.75
    assert shown.value("reference_tile_scores", **GRAM, band="0.0") == 0.0

    [(labels, value)] = shown.series("model_loaded").items()
    engine = dict(labels)["engine"]
    assert (value, engine.split()[0]) == (1, "onnxruntime")
    for step in ("fetch", "verify", "engine", "golden"):
        assert shown.value("model_load_seconds_count", step=step) == 1
        assert (shown.value("model_load_seconds_sum", step=step) or 0) > 0
    assert (shown.value("children_memory_bytes") or 0) > 2**20
    assert (shown.value("children_cpu_seconds_total") or 0) > 0.1


async def test_slides_that_a_person_must_look_at_are_counted_with_each_reason(bench: Bench) -> None:
    # Pale answers: the organism is called with a probability of about 0.9.
    version = await bench.publish(sharpness=12.0, review_by_specimen={"csf": 1.0})
    await bench.submit([await bench.field() for _ in range(3)], version, specimen_types=["", "csf", "csf"])
    port = free_port()
    async with bench.process(metrics_port=port, children=1):
        await bench.ended()
        await until(lambda: _shows(port, "slides_called_total", 3), what="the last slide is counted")
        shown = await scrape(port)
    assert shown.value("slides_for_review_total", **GRAM) == 2
    assert shown.value("review_reasons_total", reason="LOW_CONFIDENCE") == 2
    assert shown.value("review_reasons_total", reason="MIXED_GROWTH") == 0
    # An artifact that says nothing of its validation split has nothing to compare with.
    assert not shown.series("reference_tile_calls")


async def test_the_age_of_a_slide_that_hangs_grows(bench: Bench) -> None:
    version = await bench.publish()
    image = await bench.field()
    bench.hold(image)
    port = free_port()
    async with bench.worker(metrics_port=port, children=1):
        await bench.submit([image], version)
        await bench.held(image)

        async def age() -> float:
            return (await scrape(port)).value("slide_running_seconds") or 0.0

        first = await age()
        assert first > 0
        assert await until(age) > first
        bench.let_go(image)
        await bench.ended()


async def test_series_of_closed_sets_are_there_before_anything_happened(bench: Bench) -> None:
    # Prometheus sees no increase in a series that begins with its first count.
    port = free_port()
    async with bench.worker(metrics_port=port, children=1):
        shown = await scrape(port)
    assert shown.value("slides_finished_total", state="FAILED", reason="WORKER_CRASHED") == 0
    assert shown.value("slide_retries_total", reason="SLIDE_TIMEOUT") == 0
    assert shown.value("slide_wait_seconds_count", priority="STAT") == 0
    assert shown.value("slide_seconds_count", priority="STAT") == 0
    assert shown.value("model_load_failures_total", reason="ARTIFACT_CORRUPT") == 0
    assert shown.value("shadow_slides_total", verdict="SAME") == 0
    assert shown.value("review_reasons_total", reason="MIXED_GROWTH") == 0


async def test_a_worker_that_loads_many_versions_shows_the_last_ones_only(bench: Bench) -> None:
    port = free_port()
    async with bench.worker(metrics_port=port, children=1, models_per_child=2):
        for number in range(MOST_VERSIONS + 4):
            version = await bench.publish(promote=False, evaluation={REFERENCE: SHARES})
            await bench.submit([await bench.field()], version, batch=f"b{number}")
            await bench.ended(f"b{number}")
        shown = await scrape(port)
        assert len(shown.series("slides_called_total")) == MOST_VERSIONS
        assert shown.value("slides_called_total", model="gram", version="1") is None
        assert len(shown.series("model_loaded")) == 2
        assert len(shown.series("reference_tile_calls")) == 2 * len(LABELS)
        # Series of everything that a worker can show of so many versions, its own process and its RPCs: bounded.
        assert len(shown) < MOST_VERSIONS * 60 + 700


@pytest.mark.parametrize("said", [{"labels": {"GNR": 2.0}}, {"labels": []}, "nothing", {"bands": {"0.9": "x"}}])
async def test_a_manifest_that_says_nonsense_of_its_validation_split_is_loaded_and_shows_none(
    bench: Bench, said: Any
) -> None:
    version = await bench.publish(evaluation={REFERENCE: said})
    await bench.submit([await bench.field()], version)
    port = free_port()
    async with bench.worker(metrics_port=port, children=1):
        await bench.ended()
        shown = await scrape(port)
    assert not shown.series("reference_tile_calls")
    assert not shown.series("reference_tile_scores")


def test_a_child_that_says_nonsense_makes_no_more_series_than_an_artifact_may_have() -> None:
    metrics = Metrics()
    served = Served(metrics)
    for number in range(200):
        served.called(
            "models/gram/versions/1",
            Finished(
                id=number,
                call={"outcome": f"O{number}", "findings": [], "review_reasons": [f"R{number}"]},
                tiles=1,
                inference_s=0.0,
                stages={},
                engine="e",
                digest="d",
                tile_labels={f"L{number}": 1},
                tile_bands={f"B{number}": 1},
            ),
        )
    shown = Exposition(generate_latest(metrics.registry).decode())
    assert shown.value("slides_called_total", **GRAM) == 200
    assert len(shown.series("tile_calls_total")) == MOST_LABELS
    for name, most in (("tile_scores_total", len(BANDS)), ("calls_total", 3)):
        assert len(shown.series(name)) == most
        assert set(shown.series(name).values()) == {0}
    assert set(shown.series("review_reasons_total").values()) == {0}


def test_a_child_that_says_nonsense_of_its_engine_makes_few_series() -> None:
    metrics = Metrics()
    served = Served(metrics)
    for number in range(200):
        served.loaded(VersionLoaded("models/gram/versions/1", f"engine {number}", {}, ("GNR",), ("GNR",), {}, {}))
        served.serving(["models/gram/versions/1"])
    shown = Exposition(generate_latest(metrics.registry).decode())
    assert len(shown.series("model_loaded")) == MOST_ENGINES
