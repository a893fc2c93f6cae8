"""What can be asked for, and what is refused at once."""

from __future__ import annotations

import asyncio
import base64
import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from gramserve.errors import AlreadyExists, InvalidInput, NotFound, Reason
from gramserve.v1 import model_pb2, optimizer_service_pb2
from tests.optimizer_service.conftest import Bench, Caller, State, answer, id_of, refused


async def test_I3_one_request_id_makes_one_optimization_however_often_it_is_sent(bench: Bench, caller: Caller) -> None:
    request = await caller.request()
    answers = await asyncio.gather(*(caller.stub.CreateOptimization(request) for _ in range(10)))
    assert len({created.name for created in answers}) == 1
    done = await caller.ended(answers[0].name)
    again = await answer(caller.stub.CreateOptimization(request))
    assert again == done
    assert await bench.store.folders("optimizations") == [id_of(done.name)]
    assert await bench.store.folders("models/gram/versions") == ["1"]


async def test_I3_another_payload_under_a_request_id_is_ALREADY_EXISTS(caller: Caller) -> None:
    request = await caller.request("waits")
    await answer(caller.stub.CreateOptimization(request))
    request.optimization.settings.seed = 7
    error = await refused(answer(caller.stub.CreateOptimization(request)))
    assert isinstance(error, AlreadyExists)
    assert error.reason is Reason.REQUEST_ID_REUSED


async def test_I3_a_request_id_in_capitals_is_the_same_request_id(caller: Caller) -> None:
    request = await caller.request()
    first = await answer(caller.stub.CreateOptimization(request))
    request.request_id = request.request_id.upper()
    assert (await answer(caller.stub.CreateOptimization(request))).name == first.name


async def test_I3_a_create_that_died_after_its_record_is_completed_by_the_next(bench: Bench, caller: Caller) -> None:
    """The request id is taken and the optimization is durable, but the queue never heard of it."""
    request = await caller.request("finishes")
    first = await answer(caller.stub.CreateOptimization(request))
    await caller.ended(first.name)
    await bench.store.delete(f"{first.name}/outcome.json")
    await bench.store.delete(f"{first.name}/optimization.json")
    from gramserve.queue import connect

    redis = connect(bench.redis.url)
    await redis.flushall()
    await redis.aclose()
    async with bench.service() as restarted:
        second = await answer(restarted.stub.CreateOptimization(request))
        assert second.name == first.name
        assert (await restarted.ended(second.name)).state == State.STATE_SUCCEEDED


async def test_a_wished_id_is_the_name_and_is_given_once(caller: Caller) -> None:
    created = await caller.create(optimization_id="gram-2026-11")
    assert created.name == "optimizations/gram-2026-11"
    for request_id in ("", str(uuid.uuid4())):
        error = await refused(caller.create(optimization_id="gram-2026-11", request_id=request_id))
        assert isinstance(error, AlreadyExists)
        assert error.reason is Reason.BATCH_ID_TAKEN


async def test_without_a_request_id_every_create_is_a_new_one(caller: Caller) -> None:
    first, second = await caller.create(request_id=""), await caller.create(request_id="")
    assert first.name != second.name


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("optimization_id", {"optimization_id": "A"}),
        ("optimization_id", {"optimization_id": "../x"}),
        ("request_id", {"request_id": "not a uuid"}),
        ("request_id", {"request_id": str(uuid.uuid1())}),
    ],
)
async def test_a_wrong_id_is_named(caller: Caller, field: str, change: dict[str, Any]) -> None:
    error = await refused(caller.create(**change))
    assert isinstance(error, InvalidInput)
    assert [name for name, _ in error.violations] == [field]


def _set(path: str, value: Any) -> Any:
    def change(request: Any) -> None:
        target = request
        *steps, last = path.split(".")
        for step in steps:
            target = getattr(target, step)
        setattr(target, last, value)

    return change


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("optimization.model", _set("optimization.model", "gram")),
        ("optimization.model", _set("optimization.model", "models/../x")),
        ("optimization.architecture", _set("optimization.architecture", "")),
        ("optimization.architecture", _set("optimization.architecture", "a b; rm")),
        ("optimization.checkpoint", lambda r: r.optimization.ClearField("checkpoint")),
        ("optimization.checkpoint.sha256", _set("optimization.checkpoint.sha256", "ABC")),
        ("optimization.data.uri", _set("optimization.data.uri", "/x\n/y")),
        ("optimization.settings.margin", _set("optimization.settings.margin", 1.5)),
        ("optimization.settings.margin", _set("optimization.settings.margin", float("nan"))),
        ("optimization.settings.keep_macs", _set("optimization.settings.keep_macs", -0.1)),
        ("optimization.settings.seed", _set("optimization.settings.seed", -1)),
        ("optimization.settings.input_px", _set("optimization.settings.input_px", 8)),
        ("optimization.settings.recall_margin", _set("optimization.settings.recall_margin", 1.1)),
        ("optimization.settings.importance", _set("optimization.settings.importance", 99)),
        ("optimization.settings.scope", _set("optimization.settings.scope", 99)),
        ("optimization.settings.recipes", lambda r: r.optimization.settings.recipes.extend(["a", "a"])),
        ("optimization.settings.recipes", lambda r: r.optimization.settings.recipes.append("../x")),
        ("optimization.settings.engines", lambda r: r.optimization.settings.engines.append("")),
        ("optimization.settings.review_risk", _set("optimization.settings.review_risk", 1.0)),
        ("optimization.settings.min_assessed_tiles", _set("optimization.settings.min_assessed_tiles", -1)),
        ("optimization.settings.mixed_usual_in", lambda r: r.optimization.settings.mixed_usual_in.append("")),
        ("optimization.settings.mixed_usual_in", lambda r: r.optimization.settings.mixed_usual_in.append("x" * 64)),
        ("optimization.settings.mean", lambda r: r.optimization.settings.mean.extend([0.5, 0.5])),
        ("optimization.settings.mean", lambda r: r.optimization.settings.mean.extend([0.5, 0.5, float("inf")])),
        ("optimization.settings.std", lambda r: r.optimization.settings.std.extend([0.5, 0.5, 0.0])),
        ("optimization.settings.budget", lambda r: r.optimization.settings.budget.FromSeconds(10**8)),
        ("optimization.settings.budget", lambda r: r.optimization.settings.budget.FromSeconds(-1)),
    ],
)
async def test_a_wrong_field_is_named_at_once(bench: Bench, caller: Caller, field: str, change: Any) -> None:
    request = await caller.request()
    change(request)
    error = await refused(answer(caller.stub.CreateOptimization(request)))
    assert isinstance(error, InvalidInput)
    assert error.reason is Reason.INVALID_FIELD
    assert [name for name, _ in error.violations] == [field]
    assert await bench.store.folders("optimizations") == []


async def test_all_wrong_fields_are_named_together(caller: Caller) -> None:
    error = await refused(answer(caller.stub.CreateOptimization(optimizer_service_pb2.CreateOptimizationRequest())))
    assert isinstance(error, InvalidInput)
    assert {name for name, _ in error.violations} == {
        "optimization.model",
        "optimization.architecture",
        "optimization.checkpoint",
        "optimization.data",
    }


def _labels(*labels: model_pb2.Label) -> Any:
    def change(request: Any) -> None:
        del request.optimization.labels[:]
        request.optimization.labels.extend(labels)

    return change


_BACKGROUND = model_pb2.Label(name="B", kind=model_pb2.Label.KIND_BACKGROUND)
_ORGANISM = model_pb2.Label(name="O", kind=model_pb2.Label.KIND_ORGANISM, gram=model_pb2.Label.GRAM_POSITIVE)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("optimization.labels", _labels()),
        ("optimization.labels", _labels(_ORGANISM)),
        ("optimization.labels[1].name", _labels(_ORGANISM, _ORGANISM)),
        ("optimization.labels[0].kind", _labels(model_pb2.Label(name="X"), _ORGANISM)),
        ("optimization.labels[0].name", _labels(model_pb2.Label(kind=model_pb2.Label.KIND_ORGANISM), _ORGANISM)),
        ("optimization.labels", _labels(_BACKGROUND, model_pb2.Label(name="C", kind=model_pb2.Label.KIND_BACKGROUND))),
    ],
)
async def test_wrong_labels_are_INVALID_LABELS(caller: Caller, field: str, change: Any) -> None:
    request = await caller.request()
    change(request)
    error = await refused(answer(caller.stub.CreateOptimization(request)))
    assert isinstance(error, InvalidInput)
    assert error.reason is Reason.INVALID_LABELS
    assert field in [name for name, _ in error.violations]


async def test_a_digest_that_was_never_uploaded_is_REFERENCE_NOT_FOUND(caller: Caller) -> None:
    request = await caller.request()
    request.optimization.data.sha256 = "0" * 64
    error = await refused(answer(caller.stub.CreateOptimization(request)))
    assert isinstance(error, NotFound)
    assert error.reason is Reason.REFERENCE_NOT_FOUND


async def test_no_path_may_be_read_unless_it_is_allowed(caller: Caller, tmp_path: Path) -> None:
    (tmp_path / "checkpoint").write_bytes(b"x")
    request = await caller.request()
    request.optimization.checkpoint.uri = str(tmp_path / "checkpoint")
    error = await refused(answer(caller.stub.CreateOptimization(request)))
    assert error.reason is Reason.REFERENCE_DENIED
    assert str(tmp_path) not in error.message


async def test_a_file_and_a_folder_under_an_allowed_root_are_read(bench: Bench, tmp_path: Path) -> None:
    root = tmp_path / "allowed"
    (root / "data" / "train").mkdir(parents=True)
    (root / "checkpoint.safetensors").write_bytes(b"x")
    async with bench.service(allowed_roots=(str(root),)) as caller:
        request = await caller.request()
        request.optimization.checkpoint.uri = (root / "checkpoint.safetensors").as_uri()
        request.optimization.data.uri = str(root / "data")
        created = await answer(caller.stub.CreateOptimization(request))
        assert created.data.uri == str(root / "data")
        assert (await caller.ended(created.name)).state == State.STATE_SUCCEEDED


@pytest.mark.parametrize("name", ["", "x", "optimizations/", "optimizations/../x", "optimizations/a/b", "batches/abcd"])
async def test_a_name_that_is_none_is_refused(caller: Caller, name: str) -> None:
    error = await refused(caller.get(name))
    assert isinstance(error, InvalidInput)
    assert [field for field, _ in error.violations] == ["name"]


async def test_an_optimization_that_is_not_there_is_UNKNOWN_OPTIMIZATION(caller: Caller) -> None:
    async def watch() -> None:
        await answer(caller.watch("optimizations/nothing").read())

    for call in (caller.get("optimizations/nothing"), caller.cancel("optimizations/nothing"), watch()):
        error = await refused(call)
        assert isinstance(error, NotFound)
        assert error.reason is Reason.UNKNOWN_OPTIMIZATION


async def _page(caller: Caller, **fields: Any) -> Any:
    return await answer(caller.stub.ListOptimizations(optimizer_service_pb2.ListOptimizationsRequest(**fields)))


async def test_a_listing_has_the_newest_first_page_by_page(caller: Caller) -> None:
    made = [(await caller.create("waits")).name for _ in range(5)]
    first = await _page(caller, page_size=2)
    await caller.create("waits")  # what comes later does not shift the pages
    second = await _page(caller, page_size=2, page_token=first.next_page_token)
    third = await _page(caller, page_size=2, page_token=second.next_page_token)
    pages = [first, second, third]
    assert [o.name for page in pages for o in page.optimizations] == made[::-1]
    assert third.next_page_token == ""
    assert len((await _page(caller)).optimizations) == 6


HUGE = base64.urlsafe_b64encode(json.dumps(["optimizations", 10**400, "x"]).encode()).decode().rstrip("=")
NESTED = base64.urlsafe_b64encode(b"[" * 100_000).decode().rstrip("=")


@pytest.mark.parametrize("token", ["x", "!!!", "bnVsbA", "WyJiYXRjaGVzIiwxLCJ4Il0", HUGE, NESTED])
async def test_a_page_token_of_somebody_else_is_refused(caller: Caller, token: str) -> None:
    assert (await refused(_page(caller, page_token=token))).reason is Reason.INVALID_PAGE_TOKEN


async def test_a_negative_page_size_is_refused(caller: Caller) -> None:
    assert (await refused(_page(caller, page_size=-1))).reason is Reason.INVALID_FIELD
