"""S3 refuses, hangs, is slow, loses answers or breaks off in the middle: typed errors, nothing lost, nothing cut."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

import pytest

from gramserve.errors import GramserveError, Reason, Unavailable, Unsafe
from gramserve.store.batches import BatchStore
from gramserve.store.objects import RemoteObjects, open_store
from gramserve.store.records import SlideRecord
from gramserve.store.registry import Registry
from gramserve.store.remote import open_s3
from tests.s3 import BUCKET, KEY, SECRET, S3Server, environment
from tests.store.artifacts import FILES, draft
from tests.store.s3_proxy import S3Proxy, Verdict, s3_proxy

REQUEST_S = 2


@pytest.fixture
async def proxy(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[S3Proxy]:
    async with s3_proxy(s3.port) as made:
        for name, value in environment(made.endpoint).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_TIMEOUT", f"{REQUEST_S}s")
        yield made


@pytest.fixture
def objects(s3: S3Server, proxy: S3Proxy) -> RemoteObjects:
    """A store behind the proxy."""
    return open_s3(BUCKET, s3.url().rpartition("/")[2])


@pytest.fixture
def beyond(objects: RemoteObjects, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> RemoteObjects:
    """The same store without the proxy: what is really there."""
    monkeypatch.setenv("AWS_ENDPOINT", s3.environment["AWS_ENDPOINT"])
    return open_s3(BUCKET, objects.uri("x").split("/")[3])


def first(verdict: Verdict, *, times: int, method: str = "") -> Callable[[str, str], Verdict]:
    """The first `times` requests with this method meet that; all later ones pass."""
    left = [times]

    def judge(asked: str, path: str) -> Verdict:
        if left[0] and method in {"", asked}:
            left[0] -= 1
            return verdict
        return "pass"

    return judge


@pytest.mark.parametrize("verdict", ["503", "lose", "cut", "hang"])
async def test_one_request_that_goes_wrong_is_asked_again_and_nobody_notices(
    objects: RemoteObjects, proxy: S3Proxy, verdict: Verdict
) -> None:
    data = os.urandom(300_000)
    await objects.put("a/b", data)
    proxy.judge = first(verdict, times=1)
    assert await objects.get("a/b") == data
    proxy.judge = first(verdict, times=1)
    await objects.put("a/b", data[:1000])
    proxy.judge = first(verdict, times=1)
    assert await objects.size("a/b") == 1000
    assert proxy.count(verdict) == 3


async def test_I10_a_storage_that_refuses_for_long_is_STORE_UNAVAILABLE_and_kept_nothing(
    objects: RemoteObjects, proxy: S3Proxy
) -> None:
    proxy.judge = lambda method, path: "503"
    for call in (objects.create("a/b", b"x"), objects.get("a/b"), objects.delete("a/b"), objects.size("a/b")):
        with pytest.raises(Unavailable) as caught:
            await call
        assert caught.value.reason is Reason.STORE_UNAVAILABLE
        assert caught.value.retry_after_s
    with pytest.raises(Unavailable):
        async with aclosing(objects.list("a")) as listing:
            await anext(listing)
    proxy.judge = lambda method, path: "pass"
    assert await objects.size("a/b") is None
    assert await objects.create("a/b", b"x")


async def test_what_is_cut_off_again_and_again_is_unavailable_and_never_a_part_of_the_object(
    objects: RemoteObjects, proxy: S3Proxy
) -> None:
    await objects.put("a/b", os.urandom(300_000))
    proxy.judge = lambda method, path: "cut"
    for call in (objects.get("a/b"), objects.get_range("a/b", 0, 300_000), objects.get_tagged("a/b")):
        with pytest.raises(Unavailable):
            await call
    with pytest.raises(Unavailable):
        await asyncio.to_thread(objects.get_sync, "a/b")


async def test_a_slow_storage_costs_time_only(objects: RemoteObjects, proxy: S3Proxy) -> None:
    proxy.delay_s = 0.2 * REQUEST_S
    assert await objects.create("a/b", b"x")
    assert not await objects.create("a/b", b"y")
    assert await objects.get("a/b") == b"x"
    assert len(proxy.requests) >= 3


async def test_a_stream_that_breaks_off_leaves_no_object(
    objects: RemoteObjects, beyond: RemoteObjects, proxy: S3Proxy
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield bytes(8 * 2**20)
        proxy.judge = lambda method, path: "503"

    with pytest.raises(Unavailable):
        await objects.put_stream("a/big", chunks())
    assert await beyond.size("a/big") is None


async def test_I2_I3_a_create_whose_answer_was_lost_is_found_by_its_own_caller(
    objects: RemoteObjects, beyond: RemoteObjects, proxy: S3Proxy
) -> None:
    proxy.judge = first("lose", times=1, method="PUT")
    assert not await objects.create("a/b", b"mine")  # it was sent again, and met itself
    assert await objects.get("a/b") == b"mine"

    store = BatchStore(objects)
    for _ in range(2):
        proxy.judge = first("lose", times=3, method="PUT")
        await store.write_manifest("lab", "b1", [SlideRecord(0, "s", ())])
    assert (await BatchStore(beyond).slide("lab", "b1", 0)).slide_id == "s"


async def test_a_version_is_published_and_promoted_once_however_many_answers_were_lost(
    objects: RemoteObjects, beyond: RemoteObjects, proxy: S3Proxy
) -> None:
    lost: set[str] = set()

    def lose_each_once(method: str, path: str) -> Verdict:
        name = path.rpartition("/")[2]
        if method != "PUT" or name in lost:
            return "pass"
        lost.add(name)
        return "lose"

    proxy.judge = lose_each_once
    version, digest = await Registry(objects).publish("m", FILES, draft())
    await Registry(objects).promote("m", version)
    assert lost >= {"reserved", *FILES, "manifest.json", "production"}
    found = await Registry(beyond).resolve("models/m")
    assert (found.version, found.digest) == (version, digest)
    alias = await Registry(beyond).alias("m", "production")
    assert alias is not None
    assert (alias.version, alias.history) == (version, ())


async def test_I15_wrong_keys_are_named_at_the_start_and_shown_to_nobody(
    s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await open_store(s3_url).put("a/b", b"x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    objects = open_store(s3_url)
    said: list[GramserveError] = []
    for call in (objects.put("a/b", b"y"), objects.get("a/b"), objects.size("a/b"), objects.delete("a/b")):
        with pytest.raises(Unavailable) as caught:
            await call
        said.append(caught.value)
    with pytest.raises(Unsafe, match="AWS_ACCESS_KEY_ID") as unsafe:
        await objects.probe()
    assert unsafe.value.reason is Reason.UNSAFE_STORE
    for error in [*said, unsafe.value]:
        assert not [word for word in (KEY, SECRET, "not-the-secret", "127.0.0.1") if word in error.message]


async def test_I15_a_bucket_that_is_not_there_is_named_at_the_start(s3_url: str) -> None:
    with pytest.raises(Unsafe, match="bucket"):
        await open_store("s3://no-such-bucket/x").probe()
