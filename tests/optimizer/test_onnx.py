"""Export, quantization and the gates on real ONNX files."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import quantize_dynamic
from torch import nn

from gramserve.errors import ArtifactInvalid, Reason
from gramserve.runtime.engines import open_engine
from gramserve.store.manifest import EngineSettings
from optimizer_svc import export as exporting
from optimizer_svc.architecture import InputSpec, build_model
from optimizer_svc.compact import compact, strip
from optimizer_svc.export import Deployable, Exported, export, parity
from optimizer_svc.gates import failed_gate

PX = 32
SPEC = InputSpec(PX, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
ENGINE = EngineSettings(name="onnxruntime")
Tiles = NDArray[np.uint8]


@pytest.fixture(scope="module")
def tiles() -> Tiles:
    return np.random.default_rng(0).integers(0, 256, (24, PX, PX, 3), np.uint8)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return build_model("test_resnet", 5, PX).eval()


@pytest.fixture(scope="module")
def exported(model: nn.Module, tiles: Tiles) -> Exported:
    return export(model, SPEC, tiles)


def run(data: bytes, tiles: Tiles) -> NDArray[np.float32]:
    return open_engine(data, ENGINE).run(tiles)


def test_the_input_contract_is_inside_the_model(model: nn.Module, tiles: Tiles) -> None:
    pixels = torch.from_numpy(tiles).permute(0, 3, 1, 2).float() / 255
    mean, std = torch.tensor(SPEC.mean).view(1, 3, 1, 1), torch.tensor(SPEC.std).view(1, 3, 1, 1)
    with torch.no_grad():
        wanted = model((pixels - mean) / std)
        given = Deployable(model, SPEC)(torch.from_numpy(tiles))
    assert torch.allclose(wanted, given, atol=1e-4)


def test_an_exported_model_computes_what_torch_computes_at_any_batch_size(
    model: nn.Module, exported: Exported, tiles: Tiles
) -> None:
    assert exported.exporter == "dynamo"
    assert exported.parity < 1e-4
    for size in (1, 3, 24):
        with torch.no_grad():
            wanted = Deployable(model, SPEC)(torch.from_numpy(tiles[:size])).numpy()
        assert np.allclose(run(exported.model, tiles[:size]), wanted, atol=1e-4)


def test_an_exported_file_holds_weights_and_graph_and_little_else(model: nn.Module, exported: Exported) -> None:
    proto = onnx.load_model_from_string(exported.model)
    assert not proto.doc_string
    assert not proto.metadata_props
    assert not proto.graph.value_info
    assert not any(node.doc_string or node.metadata_props for node in proto.graph.node)
    assert "BatchNormalization" not in {node.op_type for node in proto.graph.node}
    assert len(exported.model) < 4 * sum(p.numel() for p in model.parameters()) + 30_000


def test_stripping_changes_no_number(exported: Exported, tiles: Tiles) -> None:
    proto = onnx.load_model_from_string(exported.model)
    proto.doc_string = "noted for people"
    proto.graph.node[0].doc_string = "here too"
    assert np.array_equal(run(strip(proto).SerializeToString(), tiles), run(exported.model, tiles))


def test_the_standard_deviation_is_inside_the_first_weights_and_the_mean_is_subtracted_before(
    exported: Exported,
) -> None:
    proto = onnx.load_model_from_string(exported.model)
    assert [node.op_type for node in proto.graph.node][:5] == ["Transpose", "Cast", "Sub", "Conv", "Relu"]
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    mean = values[proto.graph.node[2].input[1]].reshape(-1)
    assert np.allclose(mean, np.array(SPEC.mean) * 255)


def test_nodes_are_called_as_their_modules_and_tensors_have_short_names(model: nn.Module, exported: Exported) -> None:
    proto = onnx.load_model_from_string(exported.model)
    names = [node.name for node in proto.graph.node]
    assert len(set(names)) == len(names)
    modules = dict(model.named_modules())
    arithmetic = [node.name for node in proto.graph.node if node.op_type in {"Conv", "Gemm"}]
    assert set(arithmetic) <= set(modules)
    assert all(len(name) <= 4 for node in proto.graph.node for name in node.output if name != "logits")


@pytest.mark.parametrize("architecture", ["test_vit"])
def test_both_exporters_pass_with_a_folded_input_and_no_constant_twice(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    network = build_model(architecture, 5, 64 if architecture == "test_vit" else PX).eval()
    spec = InputSpec(64 if architecture == "test_vit" else PX, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    probe = np.random.default_rng(1).integers(0, 256, (5, spec.px, spec.px, 3), np.uint8)
    for name, exporter in dict(exporting.EXPORTERS).items():
        monkeypatch.setattr(exporting, "EXPORTERS", {name: exporter})
        exported = export(network, spec, probe)
        assert exported.parity < 1e-4
        proto = onnx.load_model_from_string(exported.model)
        onnx.checker.check_model(proto)
        assert not {"Identity", "Constant"} & {node.op_type for node in proto.graph.node}
        contents = [(t.data_type, tuple(t.dims), t.raw_data) for t in proto.graph.initializer if t.raw_data]
        assert len(set(contents)) == len(contents)
        before = [node.op_type for node in proto.graph.node if node.op_type in {"Sub", "Mul", "Conv"}]
        assert before[:2] == ["Sub", "Conv"]
        assert any(node.name in {"patch_embed.proj", "conv_stem"} for node in proto.graph.node)


def test_compacting_twice_changes_nothing(exported: Exported) -> None:
    proto = onnx.load_model_from_string(exported.model)
    assert compact(proto, named=True).SerializeToString() == exported.model


def altered(data: bytes) -> bytes:
    """The model with its last weights five per cent larger."""
    proto = onnx.load_model_from_string(data)
    (last,) = (t for t in proto.graph.initializer if list(t.dims) == [5, 96])
    last.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(last) * np.float32(1.05), last.name))
    return proto.SerializeToString()


def test_the_parity_gate_sees_an_altered_model(model: nn.Module, exported: Exported, tiles: Tiles) -> None:
    deployable = Deployable(model, SPEC).eval()
    assert parity(deployable, exported.model, tiles) < 1e-4
    assert parity(deployable, altered(exported.model), tiles) > 1e-3


def test_an_exporter_that_fails_is_replaced_and_two_that_compute_wrong_numbers_are_refused(
    model: nn.Module, exported: Exported, tiles: Tiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_model: nn.Module, _example: torch.Tensor) -> onnx.ModelProto:
        raise RuntimeError("no")

    def wrong(_model: nn.Module, _example: torch.Tensor) -> onnx.ModelProto:
        return onnx.load_model_from_string(altered(exported.model))

    tracing = exporting.EXPORTERS["tracing"]
    monkeypatch.setattr(exporting, "EXPORTERS", {"fails": fails, "wrong": wrong, "tracing": tracing})
    assert export(model, SPEC, tiles).exporter == "tracing"
    monkeypatch.setattr(exporting, "EXPORTERS", {"fails": fails, "wrong": wrong})
    with pytest.raises(ArtifactInvalid) as caught:
        export(model, SPEC, tiles)
    assert caught.value.reason == Reason.PARITY_FAILED


def graph(nodes: list[onnx.NodeProto], weights: dict[str, NDArray[np.float32]]) -> bytes:
    made = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("tiles", TensorProto.UINT8, ["N", PX, PX, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 5])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


HEAD = [
    helper.make_node("Cast", ["tiles"], ["float"], to=TensorProto.FLOAT),
    helper.make_node("ReduceMean", ["float"], ["colour"], axes=[1, 2], keepdims=0),
]
MATRIX = np.random.default_rng(0).normal(0, 1, (3, 5)).astype(np.float32)


def test_a_model_in_which_neighbours_matter_fails_its_gate(tiles: Tiles) -> None:
    lonely = graph([*HEAD, helper.make_node("MatMul", ["colour", "w"], ["logits"])], {"w": MATRIX})
    assert failed_gate(lonely, ENGINE, tiles, 5) == ""
    social = graph(
        [
            *HEAD,
            helper.make_node("ReduceMean", ["colour"], ["others"], axes=[0], keepdims=1),
            helper.make_node("Sub", ["colour", "others"], ["relative"]),
            helper.make_node("MatMul", ["relative", "w"], ["logits"]),
        ],
        {"w": MATRIX},
    )
    assert "depends on its neighbours" in failed_gate(social, ENGINE, tiles, 5)


def test_dynamic_quantization_fails_the_gate_and_is_why_all_recipes_are_static(
    tiles: Tiles, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("dynamic")
    (folder / "fp32.onnx").write_bytes(
        graph([*HEAD, helper.make_node("MatMul", ["colour", "w"], ["logits"])], {"w": MATRIX})
    )
    quantize_dynamic(folder / "fp32.onnx", folder / "int8.onnx")
    varied = (tiles * np.linspace(0.1, 1, len(tiles))[:, None, None, None]).astype(np.uint8)
    assert "depends on its neighbours" in failed_gate((folder / "int8.onnx").read_bytes(), ENGINE, varied, 5)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (b"no model", "cannot run"),
        (graph([*HEAD, helper.make_node("Identity", ["colour"], ["logits"])], {}), "one finite number for each label"),
        (
            graph(
                [*HEAD, helper.make_node("MatMul", ["colour", "w"], ["logits"])],
                {"w": np.full((3, 5), np.inf, np.float32)},
            ),
            "one finite number for each label",
        ),
    ],
    ids=["broken", "shape", "infinite"],
)
def test_a_model_that_does_not_give_one_number_for_each_label_fails(tiles: Tiles, model: bytes, says: str) -> None:
    assert says in failed_gate(model, ENGINE, tiles, 5)
