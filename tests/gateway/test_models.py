"""Models, versions and aliases over gRPC."""

from __future__ import annotations

import grpc
import pytest

from gateway.shadow import wilson
from gramserve.cli.models import aliases_text, shadow_lines
from gramserve.errors import Reason
from gramserve.store.audit_verify import read_audit
from gramserve.store.layout import version_folder
from gramserve.store.shadows import Shadows, ShadowTally
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


@pytest.mark.parametrize("harm", ["damaged", "gone"])
async def test_a_version_that_the_disk_lost_can_be_rolled_back_from(stack: Stack, harm: str) -> None:
    await stack.publish()
    manifest = f"{version_folder('gram', 2)}/manifest.json"
    await (stack.objects.put(manifest, b"{") if harm == "damaged" else stack.objects.delete(manifest))
    back = await stack.models.RollbackModel(m.RollbackModelRequest(name="models/gram"))
    assert [alias.version for alias in back.aliases] == [1]
    *_, record = [record async for record in read_audit(stack.objects)]
    assert (record.action, record.artifact, record.detail) == (
        "model.roll_back",
        "",
        {"alias": "production", "version": "2"},
    )


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


async def _shadow(stack: Stack, share: float = 0.0, version: int = 2) -> model_pb2.Model:
    request = m.PromoteModelVersionRequest(name=f"models/gram/versions/{version}", alias="shadow", share=share)
    model: model_pb2.Model = await stack.models.PromoteModelVersion(request)
    return model


async def test_a_shadow_has_a_share_and_is_never_what_a_batch_gets_by_default(stack: Stack) -> None:
    await stack.publish(promote=False)
    assert aliases_text(await _shadow(stack)) == "production: 1, shadow: 2 (10 % of slides)"
    assert [alias.share for alias in (await _shadow(stack, 0.25)).aliases] == [0.0, 0.25]
    assert (await stack.create(model="models/gram")).model_version == "models/gram/versions/1"
    for share in (-0.1, 1.1, float("nan")):
        code, error = await refused(_shadow(stack, share))
        assert (code, error.violations[0][0]) == (grpc.StatusCode.INVALID_ARGUMENT, "share")
    request = m.PromoteModelVersionRequest(name="models/gram/versions/2", share=0.5)
    _, error = await refused(stack.models.PromoteModelVersion(request))
    assert error.violations[0][0] == "share"


async def test_an_alias_is_removed_as_often_as_one_likes_and_rolled_back(stack: Stack) -> None:
    await stack.publish(promote=False)
    await _shadow(stack, 0.25)
    for _ in range(2):
        model = await stack.models.RemoveModelAlias(m.RemoveModelAliasRequest(name="models/gram", alias="shadow"))
        assert [alias.name for alias in model.aliases] == ["production"]
    back = await stack.models.RollbackModel(m.RollbackModelRequest(name="models/gram", alias="shadow"))
    assert aliases_text(back) == "production: 1, shadow: 2 (25 % of slides)"
    for name, alias in (("models/gram", "production"), ("models/gram", ""), ("gram", "shadow")):
        code, error = await refused(stack.models.RemoveModelAlias(m.RemoveModelAliasRequest(name=name, alias=alias)))
        assert (code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, Reason.INVALID_FIELD)


async def test_one_call_rolls_production_back_while_a_shadow_runs_and_touches_it_not(stack: Stack) -> None:
    for _ in range(2):
        await stack.publish(promote=False)
    await stack.models.PromoteModelVersion(m.PromoteModelVersionRequest(name="models/gram/versions/2"))
    await _shadow(stack, 0.5, version=3)
    back = await stack.models.RollbackModel(m.RollbackModelRequest(name="models/gram"))
    assert aliases_text(back) == "production: 1, shadow: 3 (50 % of slides)"


async def test_the_tallies_of_all_workers_are_told_with_a_confidence_interval(stack: Stack) -> None:
    await stack.publish(promote=False)
    request = m.GetModelShadowRequest(name="models/gram/shadow")
    code, error = await refused(stack.models.GetModelShadow(request))
    assert (code, error.reason) == (grpc.StatusCode.NOT_FOUND, Reason.UNKNOWN_MODEL_VERSION)
    assert "shadow" in error.message
    await _shadow(stack, 0.5)
    empty = await stack.models.GetModelShadow(request)
    assert (empty.compared_count, empty.HasField("agreement")) == (0, False)
    shadows = Shadows(stack.objects)
    await shadows.write("gram", 1, 2, "t1-w1", ShadowTally({"SAME": 90, "SKIPPED": 7}, 2.0, 0.5))
    await shadows.write("gram", 1, 2, "t2-w2", ShadowTally({"SAME": 5, "REVIEW_DIFFERS": 3, "GRAM_FLIP": 2}, 1.0, 1.0))
    await shadows.write("gram", 2, 1, "t3-w1", ShadowTally({"SAME": 1}))
    found = await stack.models.GetModelShadow(request)
    assert (found.production_version, found.shadow_version, found.share) == (1, 2, 0.5)
    assert found.compared_count == 100
    assert (found.agreement.value, found.very_major.value, found.speed_ratio) == (0.98, 0.02, 2.0)
    assert found.agreement.low < 0.98 < found.agreement.high < 1
    assert shadow_lines(found) == [
        "models/gram: version 2 in the shadow of 1, 50 % of slides; 100 slides compared",
        "same outcome and findings: 98.00% (95 % interval 93.00% to 99.45%)",
        "organism missed or Gram reaction turned over: 2.00% (95 % interval 0.55% to 7.00%)",
        "engine 2.00 times as fast as production's",
        "       2 gram flip",
        "       3 review differs",
        "      95 same",
        "       7 skipped",
    ]
    # Another pair of versions, one of which once was in the other's shadow, is told when it is asked for.
    other = m.GetModelShadowRequest(name="models/gram/shadow", production_version=2, shadow_version=1)
    told = await stack.models.GetModelShadow(other)
    assert (told.compared_count, told.share) == (1, 0.0)
    for name in ("models/gram", "models/gram/versions/1", "shadow", ""):
        _, error = await refused(stack.models.GetModelShadow(m.GetModelShadowRequest(name=name)))
        assert error.reason is Reason.INVALID_FIELD


def test_the_interval_is_that_of_wilson_and_holds_its_rate() -> None:
    assert wilson(0, 0) is None
    for total in (1, 10, 1000):
        for count in range(0, total + 1, max(1, total // 10)):
            rate = wilson(count, total)
            assert rate is not None
            assert 0 <= rate.low <= rate.value <= rate.high <= 1
    none = wilson(0, 1000)
    assert none is not None
    assert (none.low, round(none.high, 5)) == (0.0, 0.00383)
