"""Engines: every entry of the table runs the same model, gives the same answers and fails in the same words."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from gramserve.errors import ArtifactInvalid, Reason, SlideFailed
from gramserve.runtime.engines import ENGINES, engine_options, first_installed, installed_engines, open_engine
from gramserve.runtime.engines.cpu import cpu_flags, has_bf16, int8_overflows
from gramserve.runtime.engines.openvino_engine import ran_out_of_memory
from gramserve.store.manifest import EngineSettings
from tests.artifacts import LABELS, coloured, tiny_model
from tests.sources import ROOT

NOISE = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)


def opened(name: str, batch_tiles: int = 4, **settings: str):
    return open_engine(tiny_model(), EngineSettings(name=name, batch_tiles=batch_tiles, settings=settings))


@pytest.fixture(params=sorted(ENGINES))
def name(request):
    if request.param not in installed_engines():
        pytest.skip(f"{request.param} is not installed")
    return request.param


@pytest.fixture
def engine(name):
    return opened(name)


def test_an_engine_gives_one_logit_for_each_label(engine):
    logits = engine.run(np.stack([coloured(label, 32, 32) for label in LABELS]))
    assert logits.shape == (5, 5)
    assert logits.dtype == np.float32
    assert logits.argmax(axis=1).tolist() == [0, 1, 2, 3, 4]


def test_all_engines_give_the_same_answers():
    first, *others = (opened(name).run(NOISE) for name in installed_engines())
    assert all(np.allclose(other, first, atol=1e-3) for other in others)


@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_a_tiles_logits_do_not_depend_on_its_neighbours(engine, count):
    tiles = NOISE[:count]
    alone = np.concatenate([engine.run(tiles[i : i + 1]) for i in range(count)])
    assert np.allclose(engine.run(tiles), alone, atol=1e-4)


@pytest.mark.parametrize("batch_tiles", [1, 3, 8])
def test_the_size_of_batches_changes_no_number(name, batch_tiles):
    assert np.allclose(opened(name, batch_tiles).run(NOISE), opened(name, 4).run(NOISE), atol=1e-4)


def test_two_engines_of_one_kind_give_the_very_same_numbers(name):
    assert np.array_equal(opened(name).run(NOISE), opened(name).run(NOISE))


def test_what_was_given_and_what_was_returned_stay_as_they_are(engine):
    tiles = NOISE.copy()
    tiles.setflags(write=False)
    first = engine.run(tiles)
    before = first.copy()
    engine.run(255 - tiles)
    assert np.array_equal(first, before)
    assert np.array_equal(tiles, NOISE)


def test_tiles_need_not_lie_in_one_piece(engine):
    assert np.array_equal(engine.run(NOISE[::-1]), engine.run(NOISE[::-1].copy()))


def test_an_engine_names_itself_and_its_threads(engine):
    assert engine.description.split()[0] in ENGINES
    assert "threads=1" in engine.description


@pytest.mark.parametrize("tiles", [np.zeros((1, 16, 16, 3), np.uint8), np.zeros((1, 1, 1, 3), np.uint8)])
def test_tiles_that_do_not_fit_fail_the_slide_without_a_word_of_the_engines(engine, tiles):
    with pytest.raises(SlideFailed) as failed:
        engine.run(tiles)
    assert failed.value.reason is Reason.ENGINE_FAILED
    assert failed.value.retryable
    assert failed.value.__cause__ is None
    assert "16" not in failed.value.message


def test_tiles_of_another_type_fail_the_slide(engine):
    with pytest.raises(SlideFailed):
        engine.run(NOISE.astype(np.float32))


def test_no_thread_of_an_engine_is_tied_to_a_core(name):
    """Every core has a process of its own, and all of them would be tied to the first core."""
    before = {path.name for path in Path("/proc/self/task").iterdir()}  # those of other tests may be tied
    opened(name).run(NOISE)
    threads = {path.name for path in Path("/proc/self/task").iterdir()} - before | {str(threading.get_native_id())}
    allowed = {
        line.split(":")[1].strip()
        for thread in threads
        for line in Path(f"/proc/self/task/{thread}/status").read_text().splitlines()
        if line.startswith("Cpus_allowed_list")
    }
    assert len(allowed) == 1


def test_a_want_of_memory_while_loading_is_not_the_fault_of_the_model(name, monkeypatch):
    module, kind = ENGINES[name]

    def fail(self, model, settings):
        raise MemoryError

    monkeypatch.setattr(getattr(importlib.import_module(module), kind), "__init__", fail)
    with pytest.raises(MemoryError):
        opened(name)


def test_bytes_that_are_no_model_are_a_corrupt_artifact(name):
    with pytest.raises(ArtifactInvalid) as failed:
        open_engine(b"no model", EngineSettings(name=name))
    assert failed.value.reason is Reason.ARTIFACT_CORRUPT


def test_an_engine_that_is_not_there_is_named():
    with pytest.raises(ArtifactInvalid, match="abacus") as failed:
        open_engine(tiny_model(), EngineSettings(name="abacus"))
    assert failed.value.reason is Reason.MODEL_UNAVAILABLE


def test_an_engine_that_is_not_installed_is_no_fault_of_the_model(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert installed_engines() == ("onnxruntime",)
    assert [option.name for option in engine_options(flags=())] == ["onnxruntime"]
    with pytest.raises(ArtifactInvalid, match="openvino") as failed:
        open_engine(tiny_model(), EngineSettings(name="openvino"))
    assert failed.value.reason is Reason.MODEL_UNAVAILABLE


def test_the_first_choice_that_is_installed_is_taken(monkeypatch):
    choices = [EngineSettings(name="abacus"), EngineSettings(name="openvino"), EngineSettings(name="onnxruntime")]
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert first_installed(choices).name == "onnxruntime"
    with pytest.raises(ArtifactInvalid, match="abacus or openvino") as failed:
        first_installed(choices[:2])
    assert failed.value.reason is Reason.MODEL_UNAVAILABLE


def test_settings_of_the_manifest_reach_onnxruntime_and_its_description():
    description = opened("onnxruntime", **{"session.x64quantprecision": "1"}).description
    assert description.endswith("threads=1 session.x64quantprecision=1")


def test_openvino_takes_its_precision_from_the_manifest_and_says_so():
    pytest.importorskip("openvino")
    assert opened("openvino").description.endswith("threads=1")
    assert opened("openvino", INFERENCE_PRECISION_HINT="bf16").description.endswith("INFERENCE_PRECISION_HINT=bf16")


def test_a_manifest_cannot_make_openvino_write_to_the_disk_or_take_more_cores(tmp_path):
    pytest.importorskip("openvino")
    for settings in ({"CACHE_DIR": str(tmp_path)}, {"NUM_STREAMS": "8"}):
        with pytest.raises(ArtifactInvalid) as failed:
            opened("openvino", **settings)
        assert failed.value.reason is Reason.ARTIFACT_CORRUPT
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "memory"),
    [
        ("Loading input model\nstd::bad_alloc\n", True),
        ("Exception from src/inference/src/dev/plugin.cpp:54:\ncan't alloc\n", True),
        ("Unable to read the model. Please check if the model format is supported", False),
    ],
)
def test_a_want_of_memory_is_told_from_a_model_that_is_wrong(text, memory):
    assert ran_out_of_memory(RuntimeError(text)) is memory


# What is worth measuring depends on the CPU.

VNNI = {"avx2", "avx512f", "avx512_vnni"}


@pytest.mark.parametrize(
    ("flags", "bf16", "extra"),
    [
        (VNNI, False, set()),
        (VNNI | {"avx512_bf16"}, False, set()),
        (VNNI | {"avx512_bf16"}, True, {"INFERENCE_PRECISION_HINT"}),
        (VNNI, True, set()),
        ({"avx2"}, False, {"session.x64quantprecision"}),
        ({"asimd", "asimddp"}, True, set()),
    ],
)
def test_engines_are_offered_with_what_the_cpu_makes_worth_trying(flags, bf16, extra):
    pytest.importorskip("openvino")
    options = engine_options(bf16=bf16, flags=flags)
    assert [option.name for option in options if not option.settings] == list(installed_engines())
    assert {key for option in options for key in option.settings} == extra
    assert {option.threads for option in options} == {1}


def test_engines_can_be_chosen_by_name():
    assert {option.name for option in engine_options(["onnxruntime"])} == {"onnxruntime"}


def test_the_flags_of_the_cpu_are_read_where_there_are_any(tmp_path):
    listed = tmp_path / "cpuinfo"
    listed.write_text("processor\t: 0\nflags\t\t: fpu avx2 avx512_bf16\n\nprocessor\t: 1\nflags\t\t: fpu\n")
    assert cpu_flags(listed) == {"fpu", "avx2", "avx512_bf16"}
    assert int8_overflows(cpu_flags(listed))
    assert has_bf16(cpu_flags(listed))
    assert cpu_flags(tmp_path / "none") == frozenset()
    assert not int8_overflows(cpu_flags(tmp_path / "none"))


# Nothing calls out at run time.

WATCHED = """
import json, os, sys
did = []
def hook(event, arguments):
    if event.startswith("socket.") and event not in {"socket.__new__", "socket.gethostname"}:
        did.append(f"{event} {arguments[1:]}")
    elif event in {"subprocess.Popen", "os.system", "os.posix_spawn", "os.fork", "os.exec"}:
        did.append(event)
    elif event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        if "__pycache__" not in str(arguments[0]) and str(arguments[0]) != os.devnull:
            did.append(f"open {arguments[0]}")
sys.addaudithook(hook)
import numpy as np
from gramserve.runtime.engines import open_engine
from gramserve.store.manifest import EngineSettings
engine = open_engine(sys.stdin.buffer.read(), EngineSettings(name=sys.argv[1], batch_tiles=2))
engine.run(np.zeros((3, 32, 32, 3), np.uint8))
loaded = [name for name, module in sys.modules.items() if name.startswith("openvino_telemetry") and module is not None]
print(json.dumps(did + loaded))
"""


def test_an_engine_calls_nobody_writes_nothing_and_reports_to_no_maker(name):
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, name],
        input=tiny_model(),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
        timeout=120,
    )
    assert json.loads(done.stdout) == []
