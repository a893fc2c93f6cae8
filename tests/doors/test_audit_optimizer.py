"""What the optimizer publishes is signed, says where it came from, and is recorded under who asked for it."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime
from pathlib import Path

import grpc
import pytest

from gramserve.errors import GramserveError, Reason
from gramserve.store.audit_verify import read_audit, verify
from gramserve.store.registry import Registry
from gramserve.store.signing import load_trusted
from gramserve.v1 import optimizer_service_pb2
from optimizer_svc.process import job_environment
from tests.doors.test_signatures import Keys
from tests.optimizer_service.conftest import Bench, State, bench, redis_of_session

__all__ = ["bench", "redis_of_session"]


async def test_a_version_is_published_signed_and_recorded_with_its_digest(bench: Bench, tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys")
    changes = {"signing_key": str(keys.signing), "trusted_keys_file": str(keys.trusted)}
    async with bench.service(**changes) as caller:
        request = await caller.request("finishes")
        request.optimization.settings.promote = True
        created = await caller.stub.CreateOptimization(request)
        done = await caller.ended(created.name)
    assert done.state == State.STATE_SUCCEEDED
    registry = Registry(bench.store, trusted=lambda: load_trusted(str(keys.trusted)))
    await registry.check_signature("gram", 1)
    found = [(record.action, record.object) for record in [r async for r in read_audit(bench.store)]]
    assert found == [
        ("file.upload", f"files/{request.optimization.checkpoint.sha256}"),
        ("file.upload", f"files/{request.optimization.data.sha256}"),
        ("optimization.create", "models/gram"),
        ("model.publish", "models/gram/versions/1"),
        ("model.promote", "models/gram/versions/1"),
    ]
    published = [record async for record in read_audit(bench.store) if record.action == "model.publish"]
    assert published[0].artifact == done.model_version.digest
    assert published[0].detail == {"optimization": done.name}
    await verify(bench.store)


async def test_the_manifest_says_what_went_in_who_asked_and_when_and_names_no_place(bench: Bench) -> None:
    async with bench.service() as caller:
        request = await caller.request("finishes")
        created = await caller.stub.CreateOptimization(request)
        done = await caller.ended(created.name)
    told = json.loads(await bench.store.get("models/gram/versions/1/manifest.json"))["provenance"]
    assert told["builder"] == "gramserve.optimizer"
    assert told["builder_version"]
    assert told["invocation"] == done.name
    materials = {one["name"]: one["digest"] for one in told["materials"]}
    assert materials["data"]["sha256"] == request.optimization.data.sha256
    assert len(materials["checkpoint"]["sha256"]) == 64
    assert told["parameters"]["architecture"] == "finishes"
    began, ended = (datetime.fromisoformat(told[name]) for name in ("started_on", "finished_on"))
    assert done.create_time.ToDatetime() <= began.replace(tzinfo=None) <= ended.replace(tzinfo=None)
    assert "uri" not in json.dumps(told)


async def test_an_unsigned_version_is_published_and_not_promoted_where_signatures_are_asked_for(
    bench: Bench, tmp_path: Path
) -> None:
    async with bench.service(trusted_keys_file=str(Keys(tmp_path / "keys").trusted)) as caller:
        request = await caller.request("finishes")
        request.optimization.settings.promote = True
        created = await caller.stub.CreateOptimization(request)
        done = await caller.ended(created.name)
    assert done.state == State.STATE_FAILED
    assert Reason.ARTIFACT_UNTRUSTED.value in str(done.error)
    assert await Registry(bench.store).alias("gram", "production") is None


async def test_an_optimization_that_cannot_be_recorded_is_not_accepted(bench: Bench) -> None:
    async with bench.service() as caller:
        request = await caller.request("finishes")
        place = bench.folder / "store" / "audit" / "open"
        place.rename(place.with_name("kept"))
        place.write_bytes(b"")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await caller.stub.CreateOptimization(request)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        listed = await caller.stub.ListOptimizations(optimizer_service_pb2.ListOptimizationsRequest())
        assert list(listed.optimizations) == []


async def test_a_service_whose_signing_key_others_can_read_does_not_start(bench: Bench, tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys")
    await asyncio.to_thread(keys.signing.chmod, 0o644)
    with pytest.raises(GramserveError, match="chmod"):
        async with bench.service(signing_key=str(keys.signing)):
            pass


def test_a_job_is_not_told_where_the_signing_key_is() -> None:
    environment = job_environment({"GRAMSERVE_OPTIMIZER_SIGNING_KEY": "pkcs11:token=lab?pin-value=2468", "HOME": "/"})
    assert "2468" not in str(environment)
    assert environment["HOME"] == "/"
