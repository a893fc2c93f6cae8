"""Every call of every service, over real sockets: refused to strangers, wrong roles and wrong laboratories."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from google.api import resource_pb2
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from gateway.app import App as Gateway
from gateway.settings import GatewaySettings
from gramserve.access.principal import Role
from gramserve.access.rules import Rule, rules_of
from gramserve.errors import GramserveError, PermissionDenied, Reason, Unauthenticated
from gramserve.rpc.channel import open_channel
from inference_svc.app import App as Worker
from inference_svc.settings import WorkerSettings
from optimizer_svc.app import App as Optimizer
from optimizer_svc.settings import OptimizerSettings
from tests.doors.callers import Callers, bearer, call, request_of
from tests.services import redis_server
from tests.sources import ROOT

NORTH, SOUTH = "north", "south"
EXPECTED = {"gateway": 4, "worker": 1, "optimizer": 1}


def contract() -> descriptor_pb2.FileDescriptorSet:
    return descriptor_pb2.FileDescriptorSet.FromString((ROOT / "protos/gramserve.binpb").read_bytes())


def services_of_the_contract() -> set[str]:
    return {
        f"{file.package}.{service.name}"
        for file in contract().file
        if not file.package.startswith("google")
        for service in file.service
    }


@pytest.fixture
def callers(tmp_path: Path) -> Callers:
    """One principal for each role, one with all roles in another laboratory, one whose time is over."""
    made = Callers(tmp_path)
    for role in Role:
        made.add(role.value, [role], [NORTH])
    made.add("stranger", Role, [SOUTH])
    made.add("homeless", Role)
    made.add_expired("former", Role, [NORTH])
    return made


@asynccontextmanager
async def running(service: str, folder: Path, access_file: Path) -> AsyncIterator[grpc.aio.Channel]:
    """A connection to the real service, wired by its own app."""
    async with redis_server(folder / "redis") as redis:
        shared: dict[str, Any] = {
            "store_url": str(folder / "store"),
            "redis_url": redis.url,
            "listen": "127.0.0.1:0",
            "metrics_port": -1,
            "access_file": str(access_file),
        }
        app: Gateway | Worker | Optimizer
        if service == "gateway":
            app = Gateway(GatewaySettings(**shared, shutdown_grace_s=0.2))
        elif service == "worker":
            app = Worker(WorkerSettings(**shared, children=1))
        else:
            app = Optimizer(OptimizerSettings(**shared, work_folder=str(folder / "work"), stop_grace_s=0.5))
        port = await app.start()
        try:
            async with open_channel(f"127.0.0.1:{port}") as channel:
                yield channel
        finally:
            await app.stop()


async def shown(channel: grpc.aio.Channel, token: str) -> set[str]:
    """The services that reflection shows to whom has this token."""
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)

    async def ask() -> AsyncIterator[Any]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")

    async for response in stub.ServerReflectionInfo(ask(), metadata=bearer(token)):
        return {service.name for service in response.list_services_response.service}
    return set()


@pytest.mark.parametrize("service", sorted(EXPECTED))
async def test_every_call_lets_in_whom_its_rule_names_and_nobody_else(
    service: str, callers: Callers, tmp_path: Path
) -> None:
    walked, wrong = 0, []
    async with running(service, tmp_path, callers.path) as channel:
        offered = {name for name in await shown(channel, callers.tokens["operator"]) if not name.startswith("grpc.")}
        assert len(offered) == EXPECTED[service]
        for path, rule in rules_of(offered).items():
            method = descriptor_pool.Default().FindMethodByName(path[1:].replace("/", "."))
            wrong += [f"{path}: {what}" for what in await faults(channel, method, rule, callers)]
            walked += 1
    assert wrong == []
    assert walked == sum(len(descriptor_pool.Default().FindServiceByName(name).methods) for name in offered)


async def faults(channel: grpc.aio.Channel, method: Any, rule: Rule, callers: Callers) -> list[str]:
    """What the call `method` does that its rule does not say."""
    found = []

    async def expect(who: str, token: str, laboratory: str, wanted: type[GramserveError] | None, reason: str) -> None:
        error = await call(channel, method, request_of(method, rule, laboratory), token)
        if wanted is None:
            refused = isinstance(error, Unauthenticated | PermissionDenied)
            if refused or (error is not None and error.reason in {Reason.INTERNAL, Reason.UNKNOWN_METHOD}):
                found.append(f"{who} is answered {error!r}")
        elif type(error) is not wanted or error.reason != reason:
            found.append(f"{who} is answered {error!r}")

    await expect("nobody", "", NORTH, Unauthenticated, Reason.UNAUTHENTICATED)
    guessed = f"{callers.tokens['operator'][:-1]}{'0' if callers.tokens['operator'][-1] != '0' else '1'}"
    await expect("a guessed token", guessed, NORTH, Unauthenticated, Reason.UNAUTHENTICATED)
    await expect("an expired token", callers.tokens["former"], NORTH, Unauthenticated, Reason.TOKEN_EXPIRED)
    for role in Role:
        wanted = None if role in rule.roles else PermissionDenied
        await expect(role, callers.tokens[role], NORTH, wanted, Reason.PERMISSION_DENIED)
    if rule.laboratory_field:
        for who in ("stranger", "homeless"):
            await expect(who, callers.tokens[who], NORTH, PermissionDenied, Reason.PERMISSION_DENIED)
        await expect("stranger at home", callers.tokens["stranger"], SOUTH, None, "")
        for odd in ("", "-", f"../{SOUTH}", f"{NORTH}/../{SOUTH}", SOUTH.upper(), f"{SOUTH}%2f"):
            await expect(
                f"stranger in {odd!r}", callers.tokens["stranger"], odd, PermissionDenied, Reason.PERMISSION_DENIED
            )
    return found


def test_the_walk_meets_every_service_of_the_contract() -> None:
    names = services_of_the_contract()
    assert len(names) == sum(EXPECTED.values())
    assert len(rules_of(names)) == sum(
        len(service.method)
        for file in contract().file
        if file.package in {"gramserve.v1", "inference"}
        for service in file.service
    )


def test_every_role_may_do_something_and_none_may_do_all() -> None:
    rules = rules_of(services_of_the_contract())
    for role in Role:
        allowed = [path for path, rule in rules.items() if role in rule.roles]
        assert 0 < len(allowed) < len(rules), role


def test_every_request_that_names_something_of_a_laboratory_has_that_laboratory_checked() -> None:
    """Whatever refers to a batch or a slide, or has a header with a parent; batches are made and listed by parent."""
    unchecked = []
    for path, rule in rules_of(services_of_the_contract()).items():
        service, _, name = path[1:].rpartition("/")
        method = descriptor_pool.Default().FindServiceByName(service).FindMethodByName(name)
        if _of_a_laboratory(method.input_type) and not rule.laboratory_field:
            unchecked.append(path)
    assert unchecked == []
    checked = {path for path, rule in rules_of(services_of_the_contract()).items() if rule.laboratory_field}
    assert {path.split("/")[1].rpartition(".")[2] for path in checked} == {"SlideBatchService", "ImageService"}
    assert len(checked) == 10


def _of_a_laboratory(message: Any) -> bool:
    for one in message.fields:
        reference = one.GetOptions().Extensions[resource_pb2.resource_reference]
        if {reference.type, reference.child_type} & {"gramserve.example/SlideBatch", "gramserve.example/Slide"}:
            return True
    return False


def test_a_call_that_does_not_say_who_may_make_it_stops_the_service() -> None:
    file = descriptor_pb2.FileDescriptorProto(name="tests/undeclared.proto", package="tests", syntax="proto3")
    file.message_type.add(name="Nothing")
    file.service.add(name="Undeclared").method.add(name="Do", input_type=".tests.Nothing", output_type=".tests.Nothing")
    descriptor_pool.Default().Add(file)
    with pytest.raises(LookupError, match=r"tests\.Undeclared\.Do does not say who may call it"):
        rules_of(["tests.Undeclared"])


async def test_health_is_open_and_reflection_is_not(callers: Callers, tmp_path: Path) -> None:
    async with running("gateway", tmp_path, callers.path) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=""))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await shown(channel, "")
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
        assert "gramserve.v1.SlideBatchService" in await shown(channel, callers.tokens["auditor"])
