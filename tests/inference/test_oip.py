"""The Open Inference Protocol: tiles and images of any caller are run with the artifact's own code."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import numpy as np
import pytest

from gramserve.errors import InvalidInput, NotFound, Reason
from gramserve.images.limits import ImageLimits
from gramserve.oip import open_inference_pb2 as pb
from gramserve.rpc.channel import open_channel
from gramserve.runtime.artifact import LoadedArtifact, load_artifact
from gramserve.runtime.preprocess import read_field
from gramserve.store.registry import Resolved
from tests.artifacts import LABELS, coloured_file
from tests.inference.bench import ROOT, Bench
from tests.inference.oip import caller, image_request, output, refusal, tile_request, tiles_of
from tests.waiting import HANGS_S, until


def _artifact(bench: Bench, version: Resolved) -> LoadedArtifact:
    """The artifact as the optimizer would load it."""
    folder = f"models/{version.model}/versions/{version.version}"
    manifest = bench.objects.get_sync(f"{folder}/manifest.json")
    return load_artifact(lambda name: bench.objects.get_sync(f"{folder}/{name}"), manifest, version.digest)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
async def test_tiles_give_the_numbers_of_the_artifact_in_every_form_they_can_be_sent_in(
    bench: Bench, engine: str
) -> None:
    pytest.importorskip(engine)
    version = await bench.publish(engine=engine)
    tiles = tiles_of([*LABELS, *LABELS])  # more than the engine takes at once
    expected = _artifact(bench, version).read_tiles(tiles).logits
    typed = pb.ModelInferRequest(model_name="gram")
    tensor = typed.inputs.add(name="tiles", datatype="UINT8", shape=tiles.shape)
    tensor.contents.uint_contents.extend(tiles.reshape(-1).tolist())
    typed_floats = pb.ModelInferRequest(model_name="gram")
    tensor = typed_floats.inputs.add(name="tiles", datatype="FP32", shape=tiles.shape)
    tensor.contents.fp32_contents.extend(tiles.reshape(-1).tolist())
    async with bench.worker() as app, caller(app) as stub:
        for request in (tile_request(tiles), tile_request(tiles.astype(np.float32) + 0.25), typed, typed_floats):
            response = await stub.ModelInfer(request)
            np.testing.assert_array_equal(output(response, "logits"), expected)
            likeliest = output(response, "probabilities").argmax(axis=1)
            assert [LABELS[column] for column in likeliest] == [*LABELS, *LABELS]
            assert output(response, "places").tolist() == [[index, 0, 0, 32, 32] for index in range(len(tiles))]


async def test_images_are_decoded_and_cut_as_the_fields_of_a_slide_are(bench: Bench) -> None:
    version = await bench.publish()
    images = [coloured_file("GNR", 150, 100, "jpg"), coloured_file("GPR", 64, 64), coloured_file("GPR", 130, 64, "tif")]
    artifact = _artifact(bench, version)
    readings = artifact.read(read_field(image, ImageLimits(), artifact.contract.preprocessing) for image in images)
    places = [(at.image_index, at.box.x, at.box.y, at.box.width, at.box.height) for at in readings.places]
    typed = pb.ModelInferRequest(model_name="gram.images")
    typed.inputs.add(name="images", datatype="BYTES", shape=[3, 1]).contents.bytes_contents.extend(images)
    async with bench.worker() as app, caller(app) as stub:
        for request in (image_request(images), typed):
            response = await stub.ModelInfer(request)
            np.testing.assert_array_equal(output(response, "logits"), readings.logits)
            assert [tuple(place) for place in output(response, "places").tolist()] == places
    assert len(readings) > 3


async def test_outputs_come_as_they_are_asked_for_and_the_response_says_what_ran(bench: Bench) -> None:
    await bench.publish()
    request = tile_request(tiles_of(["GNR"]))
    request.id = "caller's own"
    async with bench.worker() as app, caller(app) as stub:
        response = await stub.ModelInfer(request)
        assert [tensor.name for tensor in response.outputs] == ["logits", "probabilities", "places"]
        assert (response.model_name, response.model_version, response.id) == ("gram", "1", "caller's own")
        request.outputs.add(name="places")
        request.outputs.add(name="logits")
        response = await stub.ModelInfer(request)
        assert [(tensor.name, tensor.datatype) for tensor in response.outputs] == [
            ("places", "INT32"),
            ("logits", "FP32"),
        ]


async def test_a_version_is_named_by_its_number_or_an_alias_and_a_promotion_never_makes_a_caller_wait(
    bench: Bench,
) -> None:
    """I13: the response names the version that ran; the new one serves once it is loaded."""
    await bench.publish()
    request = tile_request(tiles_of(["GNR"]))
    async with bench.worker() as app, caller(app) as stub:
        assert (await stub.ModelInfer(request)).model_version == "1"
        second = await bench.publish(sharpness=30.0)

        async def served() -> bool:
            return (await stub.ModelInfer(request)).model_version == "2"

        await until(served)
        for which, number in (("1", "1"), ("2", "2"), ("production", "2")):
            request.model_version = which
            assert (await stub.ModelInfer(request)).model_version == number
        np.testing.assert_array_equal(
            output(await stub.ModelInfer(request), "logits"),
            _artifact(bench, second).read_tiles(tiles_of(["GNR"])).logits,
        )


async def test_unknown_models_and_versions_are_not_found(bench: Bench) -> None:
    await bench.publish()
    request = tile_request(tiles_of(["GNR"]), model="gran")
    async with bench.worker() as app, caller(app) as stub:
        error = await refusal(stub.ModelInfer(request))
        assert (type(error), error.reason) == (NotFound, Reason.UNKNOWN_MODEL)
        request.model_name, request.model_version = "gram", "7"
        error = await refusal(stub.ModelInfer(request))
        assert (type(error), error.reason) == (NotFound, Reason.UNKNOWN_MODEL_VERSION)
        request.model_version = "../../secrets"
        assert (await refusal(stub.ModelInfer(request))).reason == Reason.INVALID_FIELD
        assert not (await stub.ModelReady(pb.ModelReadyRequest(name="gran"))).ready


async def test_an_image_that_cannot_be_read_is_the_fault_of_its_caller_alone(bench: Bench) -> None:
    await bench.publish()
    broken = image_request([coloured_file("GNR")[:-40]])
    empty = image_request([b""])
    async with bench.worker() as app, caller(app) as stub:
        answers = [stub.ModelInfer(tile_request(tiles_of(["GNR"]))) for _ in range(8)]
        for request, reason in ((broken, Reason.CORRUPT_IMAGE), (empty, Reason.EMPTY_IMAGE)):
            error = await refusal(stub.ModelInfer(request))
            assert (type(error), error.reason) == (InvalidInput, reason)
        for answer in answers:
            assert (await answer).model_version == "1"


@pytest.mark.parametrize("rest", [b"\xff", b"\x2a\x02\x0a\x7f"], ids=["no fields", "a broken tensor"])
async def test_bytes_that_are_no_request_are_refused_and_the_worker_goes_on(bench: Bench, rest: bytes) -> None:
    await bench.publish()
    request = tile_request(tiles_of(["GNR"]))
    async with bench.worker() as app, caller(app) as stub, open_channel(f"127.0.0.1:{app.port}") as channel:
        bare = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        error = await refusal(bare(pb.ModelInferRequest(model_name="gram").SerializeToString() + rest))
        assert (type(error), error.reason) == (InvalidInput, Reason.INVALID_FIELD)
        assert (await stub.ModelInfer(request)).model_version == "1"
        assert app.metrics.registry.get_sample_value("gramserve_child_restarts_total") == 0


async def test_slides_and_requests_share_the_children_and_all_of_both_end(bench: Bench) -> None:
    """I2: a request takes no slide's place, and no slide is counted for it."""
    version = await bench.publish()
    await bench.submit([await bench.field() for _ in range(20)], version)
    request = tile_request(tiles_of(["GNR"] * 6))
    async with bench.worker() as app, caller(app) as stub:
        answers = await asyncio.gather(*(stub.ModelInfer(request) for _ in range(40)))
        assert len(await bench.ended()) == 20
        for answer in answers:
            np.testing.assert_array_equal(output(answer, "logits"), output(answers[0], "logits"))


async def test_a_request_as_large_as_a_message_may_be_is_run_whole_and_a_larger_one_is_refused(bench: Bench) -> None:
    await bench.publish(input_px=224)
    tiles = tiles_of(["GNR", "GPR"] * 111, 224)
    async with bench.worker() as app, caller(app) as stub:
        response = await stub.ModelInfer(tile_request(tiles))
        assert output(response, "logits").argmax(axis=1).tolist() == [1, 4] * 111
        error = await refusal(stub.ModelInfer(tile_request(np.concatenate([tiles, tiles[:2]]))))
        assert (type(error), error.reason) == (InvalidInput, Reason.MESSAGE_TOO_LARGE)


async def test_the_server_describes_itself_its_models_and_what_they_did(bench: Bench) -> None:
    await bench.publish()
    await bench.publish("other", promote=False)
    async with bench.worker() as app, caller(app) as stub:
        assert (await stub.ServerLive(pb.ServerLiveRequest())).live
        assert (await stub.ServerReady(pb.ServerReadyRequest())).ready
        assert (await stub.ServerMetadata(pb.ServerMetadataRequest())).name == "gramserve"

        async def ready() -> bool:
            return (await stub.ModelReady(pb.ModelReadyRequest(name="gram"))).ready

        await until(ready)
        described = await stub.ModelMetadata(pb.ModelMetadataRequest(name="gram"))
        assert [(one.name, one.datatype, list(one.shape)) for one in described.inputs] == [
            ("tiles", "UINT8", [-1, 32, 32, 3])
        ]
        assert [(one.name, one.datatype, list(one.shape)) for one in described.outputs] == [
            ("logits", "FP32", [-1, 5]),
            ("probabilities", "FP32", [-1, 5]),
            ("places", "INT32", [-1, 5]),
        ]
        described = await stub.ModelMetadata(pb.ModelMetadataRequest(name="gram.images"))
        assert [(one.name, one.datatype, list(one.shape)) for one in described.inputs] == [("images", "BYTES", [-1])]
        assert list(described.outputs[0].shape) == [-1, 5]
        config = (await stub.ModelConfig(pb.ModelConfigRequest(name="gram"))).config
        assert (list(config.input[0].dims), config.instance_group[0].count) == ([32, 32, 3], 2)
        index = await stub.RepositoryIndex(pb.RepositoryIndexRequest())
        assert [(one.name, one.version, one.state) for one in index.models] == [
            ("gram", "1", "READY"),
            ("gram.images", "1", "READY"),
            ("other", "1", "UNAVAILABLE"),
            ("other.images", "1", "UNAVAILABLE"),
        ]
        await stub.ModelInfer(tile_request(tiles_of(["GNR", "GPR"])))
        await refusal(stub.ModelInfer(tile_request(tiles_of(["GNR"], input_px=16))))
        (shown,) = (await stub.ModelStatistics(pb.ModelStatisticsRequest(name="gram"))).model_stats
        assert (shown.inference_count, shown.execution_count) == (2, 1)
        stats = shown.inference_stats
        assert (stats.success.count, stats.fail.count) == (1, 1)
        parts = (stats.queue, stats.compute_input, stats.compute_infer, stats.compute_output)
        assert 0 < sum(part.ns for part in parts) <= stats.success.ns + 4


TRITON = """
import sys
import numpy as np
import tritonclient.grpc as triton

with triton.InferenceServerClient(f"127.0.0.1:{sys.argv[1]}") as client:
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("gram")
    assert client.get_model_metadata("gram").inputs[0].name == "tiles"
    assert client.get_model_config("gram").config.max_batch_size > 100
    tiles = triton.InferInput("tiles", [2, 32, 32, 3], "UINT8")
    tiles.set_data_from_numpy(np.full((2, 32, 32, 3), (230, 90, 130), np.uint8))
    result = client.infer("gram", [tiles], outputs=[triton.InferRequestedOutput("probabilities")], request_id="7")
    assert result.as_numpy("probabilities").argmax(axis=1).tolist() == [1, 1]
    assert result.get_response().id == "7"
    images = triton.InferInput("images", [1], "BYTES")
    images.set_data_from_numpy(np.array([open(sys.argv[2], "rb").read()], object))
    assert client.infer("gram.images", [images]).as_numpy("probabilities").argmax(axis=1).tolist() == [4]
    try:
        client.infer("nothing", [tiles])
    except triton.InferenceServerException as error:
        assert "NOT_FOUND" in str(error), error
    assert client.get_inference_statistics("gram").model_stats[0].execution_count == 1
    assert client.get_model_repository_index().models[0].state == "READY"
"""


async def test_an_unmodified_triton_client_is_served(bench: Bench, tmp_path: Path) -> None:
    """In a process of its own: its stubs and ours describe the same names."""
    pytest.importorskip("tritonclient", reason="tritonclient is not installed", exc_type=ImportError)
    await bench.publish()
    image = tmp_path / "field.png"
    image.write_bytes(coloured_file("GPR"))
    async with bench.worker() as app:
        await until(lambda: all(child.models for child in app.children.able))
        command = [sys.executable, "-c", TRITON, str(app.port), str(image)]
        process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stderr=asyncio.subprocess.PIPE)
        try:
            _, told = await asyncio.wait_for(process.communicate(), HANGS_S)
        finally:
            if process.returncode is None:
                process.kill()
        assert process.returncode == 0, told.decode()
