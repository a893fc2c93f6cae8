"""Who calls is known to what the call does, follows the access file, and is told nothing by a refusal."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from gramserve.access.directory import Directory
from gramserve.access.principal import ANYONE, Role, current
from gramserve.access.rules import rules_of
from gramserve.errors import GramserveError, InvalidInput, Reason, Unauthenticated
from gramserve.metrics import Metrics
from gramserve.rpc.access import AccessControl
from gramserve.rpc.channel import open_channel
from gramserve.rpc.interceptors import ErrorsAndMetrics
from gramserve.rpc.server import RpcServer
from gramserve.rpc.status import from_rpc_error
from gramserve.v1 import optimization_pb2, optimizer_service_pb2, optimizer_service_pb2_grpc
from tests.doors.callers import Callers, bearer
from tests.rpc.conftest import NAME, Desk
from tests.waiting import HANGS_S, until

GET = optimizer_service_pb2.GetOptimizationRequest(name="x")
WATCH = optimizer_service_pb2.WatchOptimizationRequest(name="x")


async def tell_who(_request: Any) -> optimization_pb2.Optimization:
    """Answers who calls, after others had their turn."""
    await asyncio.sleep(0)
    return optimization_pb2.Optimization(name=current().name)


class Watched(Directory):
    """Tells when it has looked at the file."""

    def __init__(self, path: Path, metrics: Metrics, **given: Any) -> None:
        super().__init__(path, metrics, **given)
        self.looks = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def refresh(self) -> None:
        super().refresh()
        self._loop.call_soon_threadsafe(self.looks.set)


class Door:
    """A real server behind an access file, whose calls answer who made them."""

    def __init__(self, callers: Callers, directory: Watched, metrics: Metrics, desk: Desk, stub: Any) -> None:
        self.callers = callers
        self.directory = directory
        self.metrics = metrics
        self.desk = desk
        self.stub = stub

    async def who(self, *metadata: tuple[str, str]) -> str:
        """Who the server says this is; raises our errors."""
        try:
            return str((await self.stub.GetOptimization(GET, metadata=metadata)).name)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None

    async def refusal(self, *metadata: tuple[str, str]) -> GramserveError:
        with pytest.raises(GramserveError) as caught:
            await self.who(*metadata)
        return caught.value

    async def refused(self, *metadata: tuple[str, str]) -> bool:
        try:
            await self.who(*metadata)
        except Unauthenticated:
            return True
        return False

    def gauge(self) -> float | None:
        return self.metrics.registry.get_sample_value("gramserve_access_file_unusable")


@asynccontextmanager
async def door_of(callers: Callers, names: Sequence[str] = (NAME,)) -> AsyncIterator[Door]:
    """`names` are the services whose rules the server knows."""
    metrics, desk = Metrics(), Desk(unary=tell_who)
    directory = Watched(callers.path, metrics, period_s=0.01)
    server = RpcServer(
        "127.0.0.1:0",
        register=[lambda s: optimizer_service_pb2_grpc.add_OptimizerServiceServicer_to_server(desk, s)],
        names=names,
        metrics=metrics,
        access=directory,
    )
    port = await server.start()
    try:
        async with open_channel(f"127.0.0.1:{port}") as channel:
            yield Door(callers, directory, metrics, desk, optimizer_service_pb2_grpc.OptimizerServiceStub(channel))
    finally:
        await server.stop(0)


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    callers = Callers(tmp_path)
    for name in ("ada", "berta"):
        callers.add(name, [Role.MODEL_PUBLISHER])
    async with door_of(callers) as made:
        yield made


async def test_a_call_knows_who_made_it_and_calls_at_once_are_not_mixed_up(door: Door) -> None:
    names = ["ada", "berta"] * 50
    answers = await asyncio.gather(*(door.who(*bearer(door.callers.tokens[name])) for name in names))
    assert answers == names
    assert current() == ANYONE


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER   "])
async def test_the_scheme_may_be_written_in_any_case(door: Door, scheme: str) -> None:
    assert await door.who(("authorization", scheme + door.callers.tokens["ada"])) == "ada"


async def test_what_is_no_token_is_refused_and_never_repeated(door: Door) -> None:
    token = door.callers.tokens["ada"]
    id_, secret = token.split("_")[1:]
    for value in (
        token,
        f"Basic {token}",
        "Bearer",
        "Bearer ",
        f"Bearer {token.upper()}",
        f"Bearer {token}0",
        f"Bearer gst_{id_}_{'0' * 64}",
        f"Bearer gst_{'0' * 12}_{secret}",
        f"Bearer gst_{id_}_",
        "Bearer gst_" + "9" * 4000,
    ):
        error = await door.refusal(("authorization", value))
        assert (type(error), error.reason) == (Unauthenticated, Reason.UNAUTHENTICATED), value
        assert secret not in error.message
        assert id_ not in error.message


async def test_a_refusal_is_known_to_be_of_who_was_refused(tmp_path: Path) -> None:
    """What stands around the door, as the audit record does, can say whom it did not let in."""
    callers = Callers(tmp_path)
    token = callers.add("ada", [Role.SUBMITTER])
    heard: list[tuple[str, Reason]] = []

    class Listening(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
            handler = await continuation(handler_call_details)

            async def listen(request: Any, context: Any) -> Any:
                try:
                    return await handler.unary_unary(request, context)
                except GramserveError as error:
                    heard.append((current().name, error.reason))
                    raise

            return grpc.unary_unary_rpc_method_handler(
                listen, handler.request_deserializer, handler.response_serializer
            )

    metrics = Metrics()
    door = AccessControl(Directory(callers.path, metrics), rules_of([NAME]))
    server = grpc.aio.server(interceptors=[ErrorsAndMetrics(metrics), Listening(), door])
    optimizer_service_pb2_grpc.add_OptimizerServiceServicer_to_server(Desk(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with open_channel(f"127.0.0.1:{port}") as channel:
        stub: Any = optimizer_service_pb2_grpc.OptimizerServiceStub(channel)
        for metadata in (bearer(token), ()):
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.GetOptimization(GET, metadata=metadata)
    await server.stop(0)
    assert heard == [("ada", Reason.PERMISSION_DENIED), (ANYONE.name, Reason.UNAUTHENTICATED)]


async def test_two_tokens_in_one_call_are_refused(door: Door) -> None:
    tokens = door.callers.tokens
    both = await door.refusal(*bearer(tokens["ada"]), *bearer(tokens["berta"]))
    assert both.reason is Reason.UNAUTHENTICATED


async def test_a_known_and_an_unknown_id_with_a_wrong_secret_get_the_same_answer(door: Door) -> None:
    known = door.callers.tokens["ada"].split("_")[1]
    answers = set()
    for id_ in (known, "0" * 12):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await door.stub.GetOptimization(GET, metadata=bearer(f"gst_{id_}_{'1' * 64}"))
        answers.add((caught.value.code(), caught.value.details(), tuple(caught.value.trailing_metadata() or ())))
    assert len(answers) == 1


async def test_a_revoked_token_is_refused_without_a_restart_and_others_go_on(door: Door) -> None:
    ada, berta = (bearer(door.callers.tokens[name]) for name in ("ada", "berta"))
    assert await door.who(*ada) == "ada"
    door.callers.editor.revoke_token(door.callers.tokens["ada"].split("_")[1])
    await until(lambda: door.refused(*ada), what="the revoked token is refused")
    assert (await door.refusal(*ada)).reason is Reason.TOKEN_EXPIRED
    assert await door.who(*berta) == "berta"


async def test_a_removed_principal_is_a_stranger_and_a_new_one_is_let_in(door: Door) -> None:
    ada = bearer(door.callers.tokens["ada"])
    door.callers.editor.remove("ada")
    await until(lambda: door.refused(*ada), what="who was removed is refused")
    assert (await door.refusal(*ada)).reason is Reason.UNAUTHENTICATED
    clara = bearer(door.callers.add("clara", [Role.AUDITOR]))

    async def let_in() -> bool:
        return not await door.refused(*clara)

    await until(let_in, what="who was added is let in")


async def test_a_stream_ends_when_the_token_of_its_caller_does(door: Door) -> None:
    more = asyncio.Event()

    async def events(_request: Any) -> AsyncIterator[Any]:
        yield optimizer_service_pb2.WatchOptimizationResponse()
        await more.wait()
        yield optimizer_service_pb2.WatchOptimizationResponse()

    door.desk.stream = events
    ada = bearer(door.callers.tokens["ada"])
    watch = aiter(door.stub.WatchOptimization(WATCH, metadata=ada))
    await anext(watch)
    door.callers.editor.revoke_token(door.callers.tokens["ada"].split("_")[1])
    await until(lambda: door.refused(*ada), what="the revoked token is refused")
    more.set()
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await anext(watch)
    assert from_rpc_error(ended.value).reason is Reason.TOKEN_EXPIRED


async def test_a_stream_of_requests_ends_when_the_token_of_its_caller_does(door: Door) -> None:
    taken: asyncio.Queue[Any] = asyncio.Queue()
    more = asyncio.Event()

    async def take(requests: AsyncIterator[Any]) -> Any:
        async for message in requests:
            taken.put_nowait(message)
        return optimizer_service_pb2.UploadFileResponse()

    async def messages() -> AsyncIterator[Any]:
        yield optimizer_service_pb2.UploadFileRequest(chunk=b"1")
        await more.wait()
        yield optimizer_service_pb2.UploadFileRequest(chunk=b"2")

    door.desk.upload = take
    ada = bearer(door.callers.tokens["ada"])
    upload = door.stub.UploadFile(messages(), metadata=ada)
    assert (await asyncio.wait_for(taken.get(), HANGS_S)).chunk == b"1"
    door.callers.editor.revoke_token(door.callers.tokens["ada"].split("_")[1])
    await until(lambda: door.refused(*ada), what="the revoked token is refused")
    more.set()
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await upload
    assert from_rpc_error(ended.value).reason is Reason.TOKEN_EXPIRED
    assert taken.empty()


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"# nobody\n",
        b"principals: [",
        b"principals: 7\n",
        b"principals:\n- {name: ada, roles: [king]}\n",
        b"\xff\xfe\x00",
        b"[" * 500,
    ],
)
async def test_a_broken_file_changes_nothing_and_is_told_until_it_is_mended(door: Door, broken: bytes) -> None:
    ada = bearer(door.callers.tokens["ada"])
    good = door.callers.path.read_bytes()
    assert door.gauge() == 0
    door.callers.path.write_bytes(broken)
    await until(lambda: door.gauge() == 1, what="the broken file is told")
    assert await door.who(*ada) == "ada"
    door.callers.path.write_bytes(good)
    await until(lambda: door.gauge() == 0, what="the mended file is told")
    assert await door.who(*ada) == "ada"


async def looked_again(door: Door) -> None:
    """Until the directory has looked at the file twice more."""
    for _ in range(2):
        door.directory.looks.clear()
        await asyncio.wait_for(door.directory.looks.wait(), HANGS_S)


async def test_a_file_that_is_gone_or_that_others_may_write_changes_nothing(door: Door) -> None:
    ada = bearer(door.callers.tokens["ada"])
    good = door.callers.path.read_bytes()
    door.callers.path.unlink()
    await until(lambda: door.gauge() == 1, what="the missing file is told")
    assert await door.who(*ada) == "ada"
    other = door.callers.folder / "other.yaml"
    other.write_bytes(b"principals: []\n")
    other.chmod(0o666)
    other.rename(door.callers.path)
    await looked_again(door)
    assert await door.who(*ada) == "ada"
    assert door.gauge() == 1
    other.write_bytes(good)
    other.rename(door.callers.path)
    await until(lambda: door.gauge() == 0, what="the file is read again")


async def test_a_call_without_a_rule_is_nobodys(tmp_path: Path) -> None:
    callers = Callers(tmp_path)
    token = callers.add("everything", Role, ["*"])
    async with door_of(callers, names=()) as door:
        error = await door.refusal(*bearer(token))
        assert error.reason is Reason.PERMISSION_DENIED


def test_a_service_does_not_start_on_a_file_that_others_may_write(tmp_path: Path) -> None:
    callers = Callers(tmp_path)
    callers.add("ada", [Role.AUDITOR])
    Directory(callers.path, Metrics())
    callers.path.chmod(callers.path.stat().st_mode | stat.S_IWGRP)
    with pytest.raises(InvalidInput, match="others than its owner may write it") as refused:
        Directory(callers.path, Metrics())
    assert str(tmp_path) not in refused.value.message


def test_a_token_holds_until_the_second_in_which_it_expires(tmp_path: Path) -> None:
    callers = Callers(tmp_path)
    token = callers.add("ada", [Role.AUDITOR])
    ends = next(callers.editor.read().tokens())[1].expires.timestamp()
    now = ends - 0.001
    directory = Directory(callers.path, Metrics(), clock=lambda: now)
    assert directory.of_token(token).name == "ada"
    now = ends
    with pytest.raises(Unauthenticated) as refused:
        directory.of_token(token)
    assert refused.value.reason is Reason.TOKEN_EXPIRED
