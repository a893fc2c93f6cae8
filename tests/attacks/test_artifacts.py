"""Hostile artifacts: no engine reads other files for them, and a worker that cannot use one serves all others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from gramserve.errors import ArtifactInvalid, Reason
from gramserve.runtime.engines import open_engine
from gramserve.runtime.engines.opening import installed_engines
from gramserve.store.manifest import EngineSettings
from gramserve.store.records import SlideState
from gramserve.store.registry import Resolved
from tests.artifacts import tiny_draft, tiny_model
from tests.inference.bench import ROOT, Bench

Edit = Callable[[onnx.ModelProto], None]


def edited(edit: Edit) -> bytes:
    """A tiny model that `edit` made hostile."""
    model = onnx.load_from_string(tiny_model())
    edit(model)
    return bytes(model.SerializeToString())


def outside(location: str, name: str = "scale") -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", "4")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def weight_outside(location: str) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        kept = [one for one in model.graph.initializer if one.name != "scale"]
        del model.graph.initializer[:]
        model.graph.initializer.extend([*kept, outside(location)])

    return edit


def constant_outside(model: onnx.ModelProto) -> None:
    kept = [one for one in model.graph.initializer if one.name != "scale"]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    model.graph.node.insert(0, helper.make_node("Constant", [], ["scale"], value=outside("secret", "value")))


def branch_outside(model: onnx.ModelProto) -> None:
    """Inside a graph inside a node: where a look at the weights alone does not see it."""
    result = helper.make_tensor_value_info("inner", TensorProto.FLOAT, [1])
    branch = helper.make_graph([helper.make_node("Identity", ["w"], ["inner"])], "b", [], [result], [outside("s", "w")])
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node.append(helper.make_node("If", ["yes"], ["unused"], then_branch=branch, else_branch=branch))


def location_only_hinted(model: onnx.ModelProto) -> None:
    """Data of its own, and a place of other data: readers differ in what counts."""
    model.graph.initializer[0].external_data.add(key="location", value="/etc/passwd")


OUTSIDE: dict[str, Edit] = {
    "beside": weight_outside("secret"),
    "absolute": weight_outside("/etc/hostname"),
    "passwords": weight_outside("../../../../../../../../etc/passwd"),
    "proc": weight_outside("/proc/self/environ"),
    "url": weight_outside("http://169.254.169.254/latest"),
    "constant": constant_outside,
    "branch": branch_outside,
    "hint": location_only_hinted,
}


@pytest.mark.parametrize("engine", installed_engines())
@pytest.mark.parametrize("name", OUTSIDE)
def test_a_model_that_names_other_files_is_refused_before_an_engine_sees_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, engine: str
) -> None:
    """OpenVINO reads any file of the host for such a model."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_bytes(np.float32(1 / 255).tobytes())
    model = edited(OUTSIDE[name])
    with pytest.raises(ArtifactInvalid) as refused:
        open_engine(model, EngineSettings(name=engine))
    assert refused.value.reason is Reason.ARTIFACT_CORRUPT
    assert "secret" not in refused.value.message


@pytest.mark.parametrize("engine", installed_engines())
@pytest.mark.parametrize(
    "settings",
    [
        {"session.model_external_initializers_file_folder_path": "/etc"},
        {"ep.context_enable": "1", "ep.context_file_path": "/tmp/planted"},
        {"CACHE_DIR": "/tmp/planted"},
        {"session.intra_op_thread_affinities": "1;2"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_a_manifest_sets_nothing_of_an_engine_that_could_touch_files(engine: str, settings: dict[str, str]) -> None:
    with pytest.raises(ArtifactInvalid):
        open_engine(tiny_model(), EngineSettings(name=engine, settings=settings))


def huge_constant(model: onnx.ModelProto) -> None:
    """A few bytes that ask for terabytes."""
    model.graph.initializer.append(numpy_helper.from_array(np.array([2**40], np.int64), "shape"))
    model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["shape"], ["huge"]))
    model.graph.node.insert(1, helper.make_node("ReduceSum", ["huge"], ["sum"], keepdims=0))
    model.graph.node.append(helper.make_node("Add", ["logits0", "sum"], ["logits"]))
    next(node for node in model.graph.node if node.output[0] == "logits").output[0] = "logits0"


def endless_loop(model: onnx.ModelProto) -> None:
    going = helper.make_tensor_value_info("going", TensorProto.BOOL, [])
    still = helper.make_tensor_value_info("still", TensorProto.BOOL, [])
    count = helper.make_tensor_value_info("count", TensorProto.INT64, [])
    held, kept = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("held", "kept"))
    body = helper.make_graph(
        [helper.make_node("Identity", ["going"], ["still"]), helper.make_node("Sin", ["held"], ["kept"])],
        "body", [count, going, held], [still, kept],
    )  # fmt: skip
    model.graph.initializer.append(numpy_helper.from_array(np.array(2**62, np.int64), "most"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "true"))
    next(node for node in model.graph.node if node.output[0] == "logits").output[0] = "logits0"
    model.graph.node.append(helper.make_node("Loop", ["most", "true", "logits0"], ["logits"], body=body))


def oversized_attribute(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "Conv")
    node.attribute.append(helper.make_attribute("pads", [2**40] * 4))


def unknown_operator(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain, model.graph.node[0].op_type = "evil", "System"


def nested_graphs(model: onnx.ModelProto) -> None:
    result = helper.make_tensor_value_info("o", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Constant", [], ["o"], value_float=1.0)], "g", [], [result])
    for _ in range(20):
        graph = helper.make_graph([helper.make_node("If", ["yes"], ["o"], then_branch=graph)], "g", [], [result])
    model.graph.node.append(helper.make_node("If", ["yes"], ["unused"], then_branch=graph))


EVIL: dict[str, Edit] = {
    edit.__name__: edit for edit in (huge_constant, endless_loop, oversized_attribute, unknown_operator, nested_graphs)
}
TYPED = {"MODEL_UNAVAILABLE", "OUT_OF_MEMORY", "CPU_TIME_EXCEEDED", "SLIDE_TIMEOUT"}


@pytest.mark.parametrize("engine", installed_engines())
async def test_a_hostile_model_fails_its_own_slides_and_no_others(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    good = await bench.publish()
    for number, edit in enumerate(EVIL.values()):
        files, draft = tiny_draft(engine=engine)
        files["model.onnx"] = edited(edit)
        model = f"evil{number}"
        version, digest = await bench.registry.publish(model, files, draft)
        await bench.submit([await bench.field()], Resolved(model, version, digest), batch=model)
    await bench.submit([await bench.field() for _ in range(4)], good)
    changes = {"slide_timeout_s": 30.0, "slide_cpu_s": 5.0, "max_attempts": 1, "child_memory_bytes": 2**30}
    async with bench.worker(**changes):
        ends = {name: (await bench.ended(f"evil{number}"))[0] for number, name in enumerate(EVIL)}
        served = await bench.ended()
    reasons = {name: end.error.reason if end.error else "" for name, end in ends.items()}
    assert set(reasons.values()) <= TYPED, reasons
    assert {outcome.state for outcome in served.values()} == {SlideState.SUCCEEDED}
