"""What only a remote storage can get wrong: it does not answer, or the answer is lost."""

from __future__ import annotations

import socket

import pytest
from obstore.store import MemoryStore

from gramserve.errors import Reason, Unavailable, Unsafe
from gramserve.store.objects import RemoteObjects, open_store
from gramserve.store.paths import is_remote
from gramserve.store.records import AliasRecord
from gramserve.store.registry import Registry
from tests.store.artifacts import FILES, draft


@pytest.mark.parametrize("url", ["s3://bucket/prefix", "S3://bucket"])
def test_a_storage_is_remote_whatever_the_case_of_its_scheme(url: str) -> None:
    """Who opens it and who lends it to children must agree: those cannot open it by themselves."""
    assert is_remote(url)
    assert isinstance(open_store(url), RemoteObjects)


async def test_I10_a_storage_that_does_not_answer_is_STORE_UNAVAILABLE_and_at_the_start_UNSAFE_STORE(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]  # closed again, so nobody answers there
    environment = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "eu-central-1",
        "AWS_ENDPOINT": f"http://127.0.0.1:{port}",
        "AWS_ALLOW_HTTP": "true",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    objects = open_store("s3://bucket/prefix")
    with pytest.raises(Unavailable) as caught:
        await objects.create("a/b", b"x")
    assert caught.value.reason is Reason.STORE_UNAVAILABLE
    assert caught.value.retry_after_s
    assert str(port) not in caught.value.message
    with pytest.raises(Unsafe) as unsafe:
        await objects.probe()
    assert unsafe.value.reason is Reason.UNSAFE_STORE


class LosesAnswers(RemoteObjects):
    """Replaces, but the answer is lost and the request sent again: the second time it comes too late."""

    async def replace(self, path: str, data: bytes, tag: str) -> bool:
        await super().replace(path, data, tag)
        return await super().replace(path, data, tag)


async def test_a_rollback_whose_answer_was_lost_goes_back_one_version_only() -> None:
    registry = Registry(LosesAnswers(MemoryStore(), "s3://bucket"), clock=lambda: 7.0)
    for version in (1, 2, 3):
        await registry.publish("m", FILES, draft())
        await registry.promote("m", version)
    assert await registry.alias("m", "production") == AliasRecord(3, (1, 2), 7.0)
    assert await registry.rollback("m") == AliasRecord(2, (1,), 7.0)


class KeepsTheLast(RemoteObjects):
    """A storage that ignores `If-None-Match`, as some S3-compatible ones do."""

    async def create(self, path: str, data: bytes) -> bool:
        await self.put(path, data)
        return True


async def test_I15_a_storage_without_create_if_absent_is_UNSAFE_STORE() -> None:
    with pytest.raises(Unsafe) as caught:
        await KeepsTheLast(MemoryStore(), "s3://bucket").probe()
    assert caught.value.reason is Reason.UNSAFE_STORE
