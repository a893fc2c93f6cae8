"""An optimization from its creation to its end."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any

from google.rpc import code_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gramserve.errors import Reason
from gramserve.queue import connect
from gramserve.rpc.status import from_status
from gramserve.store.registry import Registry
from gramserve.v1.optimization_pb2 import Optimization
from optimizer_svc.job_process import JOB_FILE
from optimizer_svc.records import FileRecord, JobRecord, OptimizationRecord
from tests.optimizer_service.conftest import DATA, Bench, Caller, State, id_of
from tests.waiting import until


async def test_an_optimization_runs_and_its_artifact_is_published(bench: Bench, caller: Caller) -> None:
    created = await caller.create("finishes")
    assert created.state == State.STATE_QUEUED
    assert created.HasField("create_time")
    done = await caller.ended(created.name)
    assert done.state == State.STATE_SUCCEEDED
    assert done.model_version.name == "models/gram/versions/1"
    assert done.model_version.recipe == "int8 per-channel"
    assert done.model_version.accuracy == 0.96
    assert done.model_version.proved
    assert [label.name for label in done.model_version.labels] == ["BACKGROUND", "GNR"]
    assert list(done.model_version.aliases) == []
    assert done.progress.fraction == 1.0
    assert done.create_time.ToNanoseconds() <= done.start_time.ToNanoseconds() <= done.end_time.ToNanoseconds()
    resolved = await Registry(bench.store).resolve(done.model_version.name)
    assert resolved.digest == done.model_version.digest
    assert done.report_uri.endswith(f"/{done.name}")
    assert await bench.store.get(f"{done.name}/report.html") == b"<p>fine</p>"


async def test_it_is_promoted_when_that_is_asked_for(bench: Bench, caller: Caller) -> None:
    request = await caller.request()
    request.optimization.settings.promote = True
    created = await caller.stub.CreateOptimization(request)
    done = await caller.ended(created.name)
    assert list(done.model_version.aliases) == ["production"]
    assert (await Registry(bench.store).resolve("models/gram")).version == 1


async def test_what_was_asked_for_reaches_the_job_and_is_shown(bench: Bench, caller: Caller) -> None:
    request = await caller.request("waits")
    asked = Optimization.Settings(
        margin=0.02,
        keep_macs=0.25,
        seed=3,
        input_px=64,
        recall_margin=0.1,
        importance=Optimization.IMPORTANCE_MAGNITUDE,
        scope=Optimization.SCOPE_ISOMORPHIC,
        recipes=["int8-per-channel"],
        engines=["openvino", "onnxruntime"],
        review_risk=0.01,
        mean=[0.5, 0.4, 0.3],
        std=[0.25, 0.25, 0.25],
        without_quantization_aware=True,
        min_assessed_tiles=40,
        mixed_usual_in=["sputum", "wound swab"],
    )
    asked.budget.FromSeconds(300)
    request.optimization.settings.CopyFrom(asked)
    created = await caller.stub.CreateOptimization(request)
    assert created.settings == asked
    await until(lambda: bench.runs(id_of(created.name)))
    [file] = bench.folder.rglob(JOB_FILE)
    job = JobRecord.from_json(file.read_bytes())
    assert (job.budget_minutes, job.margin, job.keep_macs, job.seed, job.input_px) == (5.0, 0.02, 0.25, 3, 64)
    assert (job.recall_margin, job.importance, job.scope, job.review_risk) == (0.1, "magnitude", "isomorphic", 0.01)
    assert (job.recipes, job.engines) == (("int8-per-channel",), ("openvino", "onnxruntime"))
    assert (job.min_assessed_tiles, job.mixed_usual_in) == (40, ("sputum", "wound swab"))
    assert (job.mean, job.std, job.quantization_aware) == ((0.5, 0.4, 0.3), (0.25, 0.25, 0.25), False)


def test_a_record_of_the_release_before_is_read_with_the_defaults() -> None:
    record = OptimizationRecord(
        optimization="opt-1",
        request_id="",
        fingerprint="",
        model="gram",
        checkpoint=FileRecord(),
        data=FileRecord(),
        architecture="resnet18",
        labels=(),
        budget_minutes=20.0,
        margin=0.01,
        allow_unproved=False,
        promote=False,
        keep_macs=0.5,
        seed=0,
        create_time=0.0,
    )
    old = json.loads(record.to_json())
    for name in ("recall_margin", "importance", "scope", "recipes", "engines", "review_risk", "mean", "std"):
        del old[name]
    for name in ("quantization_aware", "min_assessed_tiles", "mixed_usual_in"):
        del old[name]
    assert OptimizationRecord.from_json(json.dumps(old).encode()) == record


async def test_what_was_asked_for_is_shown_with_the_defaults_filled_in(caller: Caller) -> None:
    created = await caller.create()
    settings = created.settings
    assert (settings.budget.seconds, settings.margin, settings.keep_macs, settings.seed) == (1200, 0.01, 0.0, 0)
    assert (settings.recall_margin, settings.review_risk) == (0.05, 0.05)
    assert (settings.importance, settings.scope) == (Optimization.IMPORTANCE_TAYLOR, Optimization.SCOPE_UNIFORM)
    assert created.model == "models/gram"
    assert created.labels[1].morphology == "rods"
    assert created.data.sha256
    assert created.data.uri == ""


async def test_a_search_that_accepts_nothing_fails_typed_and_keeps_its_report(bench: Bench, caller: Caller) -> None:
    created = await caller.create("is_refused")
    done = await caller.ended(created.name)
    assert done.state == State.STATE_FAILED
    assert done.error.code == code_pb2.FAILED_PRECONDITION
    error = from_status(done.error)
    assert error.reason is Reason.NOT_ACCEPTED
    assert error.metadata == {"tried": "3"}
    assert not done.HasField("model_version")
    assert json.loads(await bench.store.get(f"{done.name}/report.json"))["why"]


async def test_a_watcher_sees_the_states_in_order_and_the_stream_ends_with_the_end(caller: Caller) -> None:
    created = await caller.create("finishes")
    seen = [response.optimization async for response in caller.watch(created.name)]
    states = [now.state for now in seen]
    assert states == sorted(states)
    assert states[-1] == State.STATE_SUCCEEDED
    fractions = [now.progress.fraction for now in seen]
    assert fractions == sorted(fractions)
    assert all(a != b for a, b in itertools.pairwise(seen))


async def test_a_watcher_of_an_ended_optimization_gets_its_end_at_once(caller: Caller) -> None:
    created = await caller.create("finishes")
    await caller.ended(created.name)
    seen = [response.optimization.state async for response in caller.watch(created.name)]
    assert seen == [State.STATE_SUCCEEDED]


async def test_many_watchers_see_one_optimization(caller: Caller) -> None:
    created = await caller.create("waits")

    async def last() -> Any:
        return [response.optimization.state async for response in caller.watch(created.name)][-1]

    watchers = [asyncio.create_task(last()) for _ in range(20)]
    await caller.started(created.name)
    await caller.cancel(created.name)
    assert set(await asyncio.gather(*watchers)) == {State.STATE_CANCELLED}


async def test_I9_nothing_but_the_result_is_kept_of_an_optimization_that_ended(bench: Bench, caller: Caller) -> None:
    created = await caller.create("finishes")
    await caller.ended(created.name)
    await until(lambda: not (bench.folder / "work" / id_of(created.name)).exists())
    async with bench.queue() as queue:
        depth = await queue.depth()
        assert (depth.ready_routine, depth.leased, depth.delayed) == (0, 0, 0)

        async def finished() -> bool:
            snapshot = await queue.snapshot(id_of(created.name))
            return snapshot is not None and snapshot.finished == "SUCCEEDED"

        await until(finished)


async def test_one_runs_after_the_other(caller: Caller) -> None:
    first, second = await caller.create("waits"), await caller.create("finishes")
    await caller.started(first.name)
    assert (await caller.get(second.name)).state == State.STATE_QUEUED
    await caller.cancel(first.name)
    assert (await caller.ended(second.name)).state == State.STATE_SUCCEEDED


async def test_the_service_is_healthy_and_answers_by_reflection(caller: Caller) -> None:
    stub = health_pb2_grpc.HealthStub(caller.channel)
    request = health_pb2.HealthCheckRequest(service="gramserve.v1.OptimizerService")
    assert (await stub.Check(request)).status == health_pb2.HealthCheckResponse.SERVING


async def test_no_reference_or_patient_data_reaches_redis(bench: Bench, caller: Caller) -> None:
    request = await caller.request("waits")
    created = await caller.stub.CreateOptimization(request)
    await caller.started(created.name)
    redis = connect(bench.redis.url)
    text = repr([await _dump(redis, key) for key in await redis.keys("*")])
    await redis.aclose()
    assert id_of(created.name) in text
    assert created.data.sha256 not in text
    assert str(DATA) not in text


async def _dump(redis: Any, key: Any) -> object:
    kind = await redis.type(key)
    if kind == "hash":
        return key, await redis.hgetall(key)
    if kind == "zset":
        return key, await redis.zrange(key, 0, -1)
    if kind == "stream":
        return key, await redis.xrange(key)
    return key, kind
