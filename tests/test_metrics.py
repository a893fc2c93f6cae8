"""Metrics, as Prometheus reads them."""

from __future__ import annotations

import urllib.request

import pytest

from gramserve.metrics import SPECS, Metrics
from tests.waiting import HANGS_S


def _read(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"gramserve_{name}", labels)


def test_counters_gauges_and_histograms_take_values() -> None:
    metrics = Metrics()
    metrics.count("tiles", 5)
    metrics.count("tiles")
    metrics.count("fenced", transition="complete")
    metrics.set("leases", 3)
    metrics.set("queue_depth", 7, place="leased")
    metrics.observe("rpc_seconds", 0.02, method="m")
    assert _read(metrics, "tiles_total") == 6
    assert _read(metrics, "fenced_total", transition="complete") == 1
    assert _read(metrics, "leases") == 3
    assert _read(metrics, "queue_depth", place="leased") == 7
    assert _read(metrics, "rpc_seconds_count", method="m") == 1
    assert _read(metrics, "rpc_seconds_bucket", method="m", le="0.025") == 1
    assert _read(metrics, "rpc_seconds_bucket", method="m", le="0.01") == 0


def test_a_metric_that_is_not_in_the_list_is_a_mistake_and_not_a_new_metric() -> None:
    with pytest.raises(KeyError):
        Metrics().count("tilse")


def test_a_label_that_is_not_in_the_list_is_refused() -> None:
    with pytest.raises(ValueError, match="label"):
        Metrics().count("fenced", slide_id="x")


def test_two_sets_of_metrics_in_one_process_do_not_meet() -> None:
    first, second = Metrics(), Metrics()
    first.count("tiles")
    assert _read(second, "tiles_total") == 0


def test_every_metric_is_listed_once_with_a_kind_and_a_sentence() -> None:
    assert len({spec.name for spec in SPECS}) == len(SPECS)
    for spec in SPECS:
        assert spec.kind in {"counter", "gauge", "histogram"}
        assert spec.help.endswith(".")
        # Label values come from closed sets: nothing of a patient, a slide or a batch.
        assert not set(spec.labels) & {"slide_id", "slide", "batch", "laboratory", "uri", "path"}


def test_the_port_shows_all_metrics_and_closes_again() -> None:
    metrics = Metrics()
    metrics.count("tiles", 2)
    port = metrics.serve("127.0.0.1", 0)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=HANGS_S) as answer:
            text = answer.read().decode()
    finally:
        metrics.close()
    assert "gramserve_tiles_total 2.0" in text
    assert "process_cpu_seconds_total" in text
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=HANGS_S)


def test_a_gauge_shows_nothing_before_it_has_a_value() -> None:
    metrics = Metrics()
    assert _read(metrics, "store_free_bytes") is None
    metrics.set("store_free_bytes", 0)
    assert _read(metrics, "store_free_bytes") == 0


def test_a_value_that_is_followed_is_read_when_it_is_shown_and_not_shown_while_there_is_none() -> None:
    metrics = Metrics()
    now: list[float | None] = [5.0]
    metrics.follow("children_cpu_seconds", lambda: now[0])
    metrics.follow("store_free_bytes", lambda: now[0])
    assert _read(metrics, "children_cpu_seconds_total") == _read(metrics, "store_free_bytes") == 5
    now[0] = None
    assert _read(metrics, "children_cpu_seconds_total") is None
    assert _read(metrics, "store_free_bytes") is None


def test_what_is_forgotten_is_not_shown_and_counts_from_nothing_when_it_comes_back() -> None:
    metrics = Metrics()
    for version in ("1", "2"):
        metrics.count("tile_calls", 3, model="gram", version=version, label="GNR")
        metrics.set("model_loaded", 1, model="gram", version=version, engine="e")
    metrics.forget("model_loaded", model="gram", version="1")
    assert _read(metrics, "model_loaded", model="gram", version="1", engine="e") is None
    assert _read(metrics, "tile_calls_total", model="gram", version="1", label="GNR") == 3
    metrics.forget(model="gram", version="1")
    assert _read(metrics, "tile_calls_total", model="gram", version="1", label="GNR") is None
    assert _read(metrics, "tile_calls_total", model="gram", version="2", label="GNR") == 3
    metrics.count("tile_calls", model="gram", version="1", label="GNR")
    assert _read(metrics, "tile_calls_total", model="gram", version="1", label="GNR") == 1


def test_a_counter_cannot_be_set_and_a_gauge_cannot_be_counted() -> None:
    with pytest.raises(KeyError):
        Metrics().set("tiles", 1)
    with pytest.raises(KeyError):
        Metrics().count("leases")


def test_what_lasts_a_night_has_buckets_that_reach_to_its_end() -> None:
    for spec in SPECS:
        assert list(spec.buckets) == sorted(set(spec.buckets)), spec.name
        if spec.name in {"slide_seconds", "slide_wait_seconds"}:
            assert spec.buckets[-1] >= 12 * 3600
