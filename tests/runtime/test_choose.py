"""The engine that serves is the fastest one that gives the golden vectors here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from gramserve.errors import ArtifactInvalid, Reason
from gramserve.runtime.artifact import LoadedArtifact, load_artifact
from gramserve.runtime.choose import EngineChooser
from gramserve.runtime.engines import Engine
from gramserve.store.manifest import EngineSettings, manifest_digest
from tests.artifacts import coloured, tiny_artifact

pytest.importorskip("openvino")

TILE = np.zeros((1, 8, 8, 3), np.uint8)
BOTH = (EngineSettings(name="openvino", batch_tiles=4), EngineSettings(name="onnxruntime", batch_tiles=4))


class Timed:
    """An engine whose runs take a given time for each tile on a clock of the test's."""

    def __init__(self, bench: Bench, name: str, tile_s: float) -> None:
        self.description = name
        self._bench = bench
        self._tile_s = tile_s

    def run(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        self._bench.now_s += self._tile_s * len(tiles)
        self._bench.runs.append(self.description)
        return np.zeros((len(tiles), 2), np.float32)


class Bench:
    """Engines of a known speed; those in `wrong` fail their golden vectors, those in `broken` cannot be opened."""

    def __init__(
        self, speeds: dict[str, float], *, wrong: Sequence[str] = (), broken: Sequence[str] = (), only: str = "auto"
    ) -> None:
        self.now_s = 0.0
        self.runs: list[str] = []
        self.opened: list[str] = []
        self._speeds, self._wrong, self._broken = speeds, wrong, broken
        self.chooser = EngineChooser(only, clock=lambda: self.now_s, opened=self._open)

    def choose(self, choices: Sequence[EngineSettings] = BOTH) -> str:
        self.choice = self.chooser.choose("digest", b"", choices, self._check)
        return self.choice.engine.description

    def _open(self, _model: bytes, settings: EngineSettings) -> Engine:
        self.opened.append(settings.name)
        if settings.name in self._broken:
            raise MemoryError
        return Timed(self, settings.name, self._speeds[settings.name])

    def _check(self, engine: Engine, _settings: EngineSettings) -> NDArray[np.uint8]:
        if engine.description in self._wrong:
            raise ArtifactInvalid(Reason.ARTIFACT_GOLDEN_MISMATCH, f"{engine.description} is wrong")
        return TILE


@pytest.mark.parametrize(
    ("openvino_s", "onnxruntime_s", "taken"),
    [(0.001, 0.002, "openvino"), (0.002, 0.001, "onnxruntime"), (0.00101, 0.001, "openvino")],
)
def test_the_fastest_engine_serves_and_the_manifests_order_breaks_a_tie(openvino_s, onnxruntime_s, taken):
    bench = Bench({"openvino": openvino_s, "onnxruntime": onnxruntime_s})
    assert bench.choose() == taken
    assert set(bench.choice.passed_over.values()) == {"slower"}
    assert bench.choice.tile_s == pytest.approx({"openvino": openvino_s, "onnxruntime": onnxruntime_s})


def test_engines_are_measured_in_turns_for_a_bounded_time():
    bench = Bench({"openvino": 0.02, "onnxruntime": 0.03})
    bench.choose()
    turns = bench.runs[::2]
    assert turns[:6] == ["openvino", "onnxruntime"] * 3
    assert bench.now_s < 1.5


@pytest.mark.parametrize("trouble", ["wrong", "broken"])
def test_an_engine_that_cannot_serve_is_passed_over_with_its_reason(trouble):
    bench = Bench({"openvino": 0.001, "onnxruntime": 0.002}, **{trouble: ["openvino"]})
    assert bench.choose() == "onnxruntime"
    assert bench.choice.passed_over == {"openvino": "ARTIFACT_GOLDEN_MISMATCH" if trouble == "wrong" else "MemoryError"}
    assert not bench.runs


def test_where_no_engine_can_serve_the_error_of_the_first_choice_is_raised():
    bench = Bench({"openvino": 1.0, "onnxruntime": 1.0}, wrong=["openvino", "onnxruntime"])
    with pytest.raises(ArtifactInvalid, match="openvino is wrong") as refused:
        bench.choose()
    assert refused.value.reason is Reason.ARTIFACT_GOLDEN_MISMATCH


def test_what_was_measured_is_remembered_for_the_artifact():
    bench = Bench({"openvino": 0.002, "onnxruntime": 0.001})
    bench.choose()
    bench.runs.clear()
    assert bench.choose() == "onnxruntime"
    assert bench.opened == ["openvino", "onnxruntime", "onnxruntime"]
    assert not bench.runs


def test_a_single_choice_is_not_measured():
    bench = Bench({"onnxruntime": 0.001})
    assert bench.choose(BOTH[1:]) == "onnxruntime"
    assert not bench.runs
    assert bench.choice.passed_over == {}


def test_an_operator_can_name_the_engine_and_another_never_serves():
    assert Bench({"openvino": 9.0, "onnxruntime": 0.001}, only="openvino").choose() == "openvino"
    with pytest.raises(ArtifactInvalid) as refused:
        Bench({"onnxruntime": 0.001}, only="openvino").choose(BOTH[1:])
    assert refused.value.reason is Reason.MODEL_UNAVAILABLE
    assert "openvino" in refused.value.message


@pytest.mark.parametrize("only", ["auto", "openvino", "onnxruntime"])
def test_real_engines_are_chosen_and_call_the_same(only):
    artifact = _load(EngineChooser(only, budget_s=0.05))
    if only != "auto":
        assert artifact.engine.description.startswith(only)
    else:
        assert artifact.choice is not None
        assert {name.partition(" ")[0] for name in artifact.choice.tile_s} == {"openvino", "onnxruntime"}
    assert artifact.classify([coloured("GPR", 200, 130)]).call.findings[0].label == "GPR"


def _load(chooser: EngineChooser) -> LoadedArtifact:
    files, manifest = tiny_artifact(engine="openvino", alternatives=["onnxruntime"], tolerance=0.02)
    data = manifest.to_json()
    return load_artifact(files.__getitem__, data, manifest_digest(data), chooser=chooser)
