"""Models, versions and aliases over gRPC."""

from __future__ import annotations

import grpc
import pytest

from gramserve.errors import Reason
from gramserve.v1 import model_pb2
from gramserve.v1 import model_service_pb2 as m
from tests.gateway.stack import Stack, refused


async def test_models_are_listed_page_by_page(stack: Stack) -> None:
    for name in ("alpha", "beta"):
        await stack.publish(name)
    first = await stack.models.ListModels(m.ListModelsRequest(page_size=2))
    assert [model.name for model in first.models] == ["models/alpha", "models/beta"]
    rest = await stack.models.ListModels(m.ListModelsRequest(page_size=2, page_token=first.next_page_token))
    assert [model.name for model in rest.models] == ["models/gram"]
    assert rest.next_page_token == ""
    _, error = await refused(stack.models.ListModels(m.ListModelsRequest(page_token="x")))
    assert error.reason is Reason.INVALID_PAGE_TOKEN


async def test_a_version_tells_what_it_is(stack: Stack) -> None:
    version = await stack.models.GetModelVersion(m.GetModelVersionRequest(name="models/gram/versions/production"))
    assert version.name == "models/gram/versions/1"
    assert len(version.digest) == 64
    assert version.architecture == "deit_tiny"
    assert (version.accuracy, version.checkpoint_accuracy, version.proved) == (0.97, 0.98, True)
    assert version.size_bytes == len(b"not run here")
    assert list(version.aliases) == ["production"]
    assert version.labels[1] == model_pb2.Label(
        name="GNR", kind=model_pb2.Label.KIND_ORGANISM, gram=model_pb2.Label.GRAM_NEGATIVE
    )
    assert version.create_time.ToJsonString() == "2026-01-02T00:00:00Z"


async def test_versions_are_listed_newest_first(stack: Stack) -> None:
    await stack.publish()
    await stack.publish(promote=False)
    first = await stack.models.ListModelVersions(m.ListModelVersionsRequest(parent="models/gram", page_size=2))
    assert [version.name.rpartition("/")[2] for version in first.model_versions] == ["3", "2"]
    assert [list(version.aliases) for version in first.model_versions] == [[], ["production"]]
    rest = await stack.models.ListModelVersions(
        m.ListModelVersionsRequest(parent="models/gram", page_token=first.next_page_token)
    )
    assert [version.name.rpartition("/")[2] for version in rest.model_versions] == ["1"]


async def test_promoting_and_rolling_back_move_the_alias(stack: Stack) -> None:
    await stack.publish(promote=False)
    promoted = await stack.models.PromoteModelVersion(m.PromoteModelVersionRequest(name="models/gram/versions/2"))
    assert [(alias.name, alias.version) for alias in promoted.aliases] == [("production", 2)]
    assert promoted.latest_version == 2
    assert (await stack.create()).model_version == "models/gram/versions/2"
    back = await stack.models.RollbackModel(m.RollbackModelRequest(name="models/gram"))
    assert [alias.version for alias in back.aliases] == [1]
    assert (await stack.create()).model_version == "models/gram/versions/1"
    code, error = await refused(stack.models.RollbackModel(m.RollbackModelRequest(name="models/gram")))
    assert (code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, Reason.NOTHING_TO_ROLL_BACK)


async def test_a_batch_can_name_a_version_by_an_alias_of_its_own(stack: Stack) -> None:
    await stack.publish(promote=False)
    await stack.models.PromoteModelVersion(m.PromoteModelVersionRequest(name="models/gram/versions/2", alias="shadow"))
    batch = await stack.create(model="models/gram/versions/shadow")
    assert (batch.model, batch.model_version) == ("models/gram/versions/shadow", "models/gram/versions/2")
    model = await stack.models.GetModel(m.GetModelRequest(name="models/gram"))
    assert [(alias.name, alias.version) for alias in model.aliases] == [("production", 1), ("shadow", 2)]


@pytest.mark.parametrize("name", ["", "gram", "models/", "models/a/b", "models/.."])
async def test_a_model_name_that_is_none_is_refused(stack: Stack, name: str) -> None:
    for call in (
        stack.models.GetModel(m.GetModelRequest(name=name)),
        stack.models.ListModelVersions(m.ListModelVersionsRequest(parent=name)),
        stack.models.GetModelVersion(m.GetModelVersionRequest(name=name)),
        stack.models.PromoteModelVersion(m.PromoteModelVersionRequest(name=name)),
        stack.models.RollbackModel(m.RollbackModelRequest(name=name)),
    ):
        code, error = await refused(call)
        assert (code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, Reason.INVALID_FIELD)


async def test_an_unknown_model_or_version_is_not_found(stack: Stack) -> None:
    for call, reason in (
        (stack.models.GetModel(m.GetModelRequest(name="models/none")), Reason.UNKNOWN_MODEL),
        (stack.models.RollbackModel(m.RollbackModelRequest(name="models/none")), Reason.UNKNOWN_MODEL),
        (
            stack.models.GetModelVersion(m.GetModelVersionRequest(name="models/gram/versions/9")),
            Reason.UNKNOWN_MODEL_VERSION,
        ),
        (
            stack.models.PromoteModelVersion(m.PromoteModelVersionRequest(name="models/gram/versions/9")),
            Reason.UNKNOWN_MODEL_VERSION,
        ),
    ):
        code, error = await refused(call)
        assert (code, error.reason) == (grpc.StatusCode.NOT_FOUND, reason)


async def test_only_a_number_can_be_promoted(stack: Stack) -> None:
    request = m.PromoteModelVersionRequest(name="models/gram/versions/production")
    _, error = await refused(stack.models.PromoteModelVersion(request))
    assert error.reason is Reason.INVALID_FIELD
