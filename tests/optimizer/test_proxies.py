"""Which candidates are worth a validation, on hand-made looks."""

from __future__ import annotations

import pytest

from gramserve.store.manifest import EngineSettings
from optimizer_svc.candidates import FP32, Candidate
from optimizer_svc.latency import Latency
from optimizer_svc.networks import Network
from optimizer_svc.proxies import Proxy, promote
from optimizer_svc.search import _leaders

NETWORK = Network("original", None, 1, 1, {}, {}, "")  # type: ignore[arg-type]


def proxy(recipe: str, *, snr: float, ms: float, engine: str = "onnxruntime") -> Proxy:
    candidate = Candidate(NETWORK, recipe, EngineSettings(name=engine), b"m", "", "dynamo", 0.0)
    return Proxy(candidate, snr, Latency(ms / 1000, ms / 1000, ms / 1000, 5))


def kept(*proxies: Proxy) -> set[str]:
    return {f"{p.candidate.recipe} {p.candidate.engine.name}" for p in promote(proxies)[0]}


def test_what_is_neither_closer_nor_faster_than_another_is_not_validated() -> None:
    assert kept(proxy("a", snr=20, ms=1.0), proxy("b", snr=15, ms=1.0), proxy("c", snr=10, ms=0.5)) == {
        "a onnxruntime",
        "c onnxruntime",
    }


def test_candidates_of_different_engines_do_not_beat_each_other() -> None:
    assert kept(proxy("a", snr=20, ms=1.0), proxy("a", snr=15, ms=2.0, engine="openvino")) == {
        "a onnxruntime",
        "a openvino",
    }


def test_fp32_is_always_validated_and_beats_nothing() -> None:
    assert kept(proxy(FP32, snr=99, ms=0.1), proxy("a", snr=10, ms=1.0)) == {"fp32 onnxruntime", "a onnxruntime"}


@pytest.mark.parametrize("snr", [-5.0, float("nan")])
def test_what_lost_the_answers_of_its_network_is_dropped_with_a_reason(snr: float) -> None:
    taken, dropped = promote([proxy("a", snr=snr, ms=0.1)])
    assert taken == []
    assert "too far from those of fp32" in dropped["original a onnxruntime"]


def test_of_two_equals_one_is_validated() -> None:
    assert len(kept(proxy("a", snr=10, ms=1.0), proxy("b", snr=10, ms=1.0))) == 1


def test_the_other_networks_are_tried_with_the_closest_recipes_and_the_fastest() -> None:
    seen = [proxy(name, snr=snr, ms=1.0) for name, snr in (("a", 5), ("b", 30), ("c", 20), ("d", 10), ("e", 1))]
    assert _leaders([*seen, proxy("f", snr=4, ms=0.2)]) == ("b", "c", "d", "f")
    assert _leaders([proxy(FP32, snr=99, ms=1.0)]) == ()
