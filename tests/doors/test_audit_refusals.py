"""Refused calls are recorded, however many they are and whenever the service ends."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest

from gateway.models import Models
from gramserve.errors import PermissionDenied, Reason, Unauthenticated
from gramserve.store.audit import AuditLog
from gramserve.store.audit_record import AuditRecord
from gramserve.store.audit_refusals import Refusals
from gramserve.store.audit_verify import read_audit
from gramserve.store.objects import LocalObjects, ObjectStore
from gramserve.v1.model_service_pb2 import GetModelRequest
from tests.gateway.conftest import redis, stack
from tests.gateway.stack import Stack, refused
from tests.waiting import HANGS_S

__all__ = ["redis", "stack"]
STRANGER = Unauthenticated(Reason.UNAUTHENTICATED, "who are you")


async def refusals(objects: ObjectStore) -> list[AuditRecord]:
    return [record async for record in read_audit(objects) if record.action == "access.refuse"]


async def test_a_flood_of_refused_calls_is_one_record_with_each_step(tmp_path: Path) -> None:
    objects = LocalObjects(tmp_path / "store")
    noted, told = 0, Refusals(AuditLog(objects))

    async def flood() -> None:
        nonlocal noted
        while True:
            told.note("/a.B/C", STRANGER)
            noted += 1
            await asyncio.sleep(0)

    flooding = asyncio.create_task(flood())
    try:
        while not noted:
            await asyncio.sleep(0)
        for _ in range(3):
            await asyncio.wait_for(told.step(), HANGS_S)
    finally:
        flooding.cancel()
    await told.step()
    found = await refusals(objects)
    assert len(found) == 4
    assert sum(record.detail["count"] for record in found) == noted


async def test_what_was_refused_just_before_the_gateway_ends_is_recorded(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def deny(self: Models, model: str) -> list[int]:
        raise PermissionDenied(Reason.PERMISSION_DENIED, "not you")

    monkeypatch.setattr(Models, "versions", deny)
    for _ in range(3):  # less than a second in all
        code, _ = await refused(stack.models.GetModel(GetModelRequest(name="models/gram")))
        assert code is grpc.StatusCode.PERMISSION_DENIED
    await stack.stop_gateway()
    assert sum(record.detail["count"] for record in await refusals(stack.objects)) == 3
