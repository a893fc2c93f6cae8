"""Who published a version does not decide alone that it serves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from gramserve.access.principal import Role
from gramserve.errors import GramserveError, PermissionDenied, Reason
from gramserve.queue import EmbeddedRedis
from gramserve.rpc.status import from_rpc_error
from gramserve.store.manifest import Provenance
from gramserve.store.registry import Registry
from gramserve.v1 import model_service_pb2 as m
from tests.doors.callers import Bearing, Callers
from tests.gateway.stack import Stack, draft
from tests.optimizer_service.conftest import Bench, Caller, State, refused
from tests.services import redis_server, redis_server_of_a_session

BOTH = (Role.MODEL_PUBLISHER, Role.MODEL_APPROVER)


@pytest.fixture(scope="module")
def redis_of_module() -> Iterator[EmbeddedRedis]:
    with redis_server_of_a_session() as server:
        yield server


@pytest.fixture
def callers(tmp_path: Path) -> Callers:
    made = Callers(tmp_path)
    made.add("ada", BOTH)
    made.add("berta", BOTH)
    made.add("pia", [Role.MODEL_PUBLISHER])
    return made


def provenance(requested_by: str) -> Provenance:
    now = datetime(2026, 11, 26, tzinfo=UTC)
    made_in = {"builder": "gramserve.optimizer", "builder_version": "1", "invocation": "optimizations/opt-1"}
    return Provenance(**made_in, requested_by=requested_by, started_on=now, finished_on=now)


@pytest.fixture
async def stack(tmp_path: Path, callers: Callers) -> AsyncIterator[Stack]:
    """A gateway with version 1 by ada and version 2 of a time when nobody was told apart."""
    async with redis_server(tmp_path / "redis") as redis:
        made = Stack(tmp_path, redis, access_file=str(callers.path))
        for requested_by in ("ada", ""):
            written = draft().model_copy(update={"provenance": provenance(requested_by)})
            await made.registry.publish("gram", {"model.onnx": b"not run here"}, written)
        await made.start()
        try:
            yield made
        finally:
            await made.stop()


async def promote(stack: Stack, token: str, version: int, alias: str = "") -> GramserveError | None:
    """How promoting went: its error, or None."""
    request = m.PromoteModelVersionRequest(name=f"models/gram/versions/{version}", alias=alias)
    try:
        await Bearing(stack.models, token).PromoteModelVersion(request)
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error)
    return None


@pytest.mark.parametrize("alias", ["", "production", "shadow", "trial"])
async def test_who_published_a_version_may_not_promote_it_but_another_may(
    stack: Stack, callers: Callers, alias: str
) -> None:
    error = await promote(stack, callers.tokens["ada"], 1, alias)
    assert isinstance(error, PermissionDenied)
    assert error.reason is Reason.SELF_APPROVAL
    assert await stack.registry.alias("gram", alias or "production") is None
    assert await promote(stack, callers.tokens["berta"], 1, alias) is None


async def test_a_version_of_nobody_may_be_promoted_by_every_approver(stack: Stack, callers: Callers) -> None:
    assert await promote(stack, callers.tokens["ada"], 2) is None


async def test_who_publishes_only_may_promote_nothing(stack: Stack, callers: Callers) -> None:
    error = await promote(stack, callers.tokens["pia"], 2)
    assert error is not None
    assert error.reason is Reason.PERMISSION_DENIED


async def test_four_eyes_can_be_switched_off(stack: Stack, callers: Callers) -> None:
    await stack.restart(four_eyes=False)
    assert await promote(stack, callers.tokens["ada"], 1) is None


class Optimizers:
    """An optimizer behind the access file; its clients show tokens."""

    def __init__(self, caller: Caller, callers: Callers) -> None:
        self._caller = caller
        self._stub: Any = caller.stub
        self._tokens = callers.tokens

    def as_(self, name: str) -> Caller:
        self._caller.stub = Bearing(self._stub, self._tokens[name])
        return self._caller


async def test_a_version_says_who_published_it(
    tmp_path: Path, redis_of_module: EmbeddedRedis, callers: Callers
) -> None:
    bench = Bench(redis_of_module, tmp_path)
    async with bench.service(access_file=str(callers.path)) as caller:
        ada = Optimizers(caller, callers).as_("ada")
        made = await ada.create()
        ended = await ada.ended(made.name)
    assert ended.state == State.STATE_SUCCEEDED
    manifest, _ = await Registry(bench.store).manifest("gram", 1)
    assert manifest.provenance is not None
    assert manifest.provenance.requested_by == "ada"


async def test_an_optimization_cannot_promote_in_the_name_of_its_publisher(
    tmp_path: Path, redis_of_module: EmbeddedRedis, callers: Callers
) -> None:
    bench = Bench(redis_of_module, tmp_path)
    async with bench.service(access_file=str(callers.path)) as caller:
        optimizers = Optimizers(caller, callers)
        request = await optimizers.as_("ada").request()
        request.optimization.settings.promote = True
        error = await refused(_create(optimizers.as_("ada"), request))
        assert error.reason is Reason.SELF_APPROVAL
    async with bench.service(access_file=str(callers.path), four_eyes=False) as caller:
        optimizers = Optimizers(caller, callers)
        error = await refused(_create(optimizers.as_("pia"), request))
        assert error.reason is Reason.PERMISSION_DENIED
        made = await _create(optimizers.as_("ada"), request)
        await optimizers.as_("ada").ended(made.name)
    alias = await Registry(bench.store).alias("gram", "production")
    assert alias is not None
    assert alias.version == 1


async def _create(caller: Caller, request: Any) -> Any:
    try:
        return await caller.stub.CreateOptimization(request)
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from None
