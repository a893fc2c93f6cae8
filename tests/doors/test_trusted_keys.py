"""Trusted keys change without a restart: in the gateway, in a worker and in its children, old ones and new ones."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import grpc
import pytest

from gramserve.errors import ArtifactInvalid, InvalidInput, Reason
from gramserve.metrics import Metrics
from gramserve.store import signing
from gramserve.store.records import SlideState
from gramserve.store.signing import (
    FileSigner,
    TrustedKeys,
    follow_trusted,
    go_on_trusting,
    load_trusted,
    sign_manifest,
)
from gramserve.v1.model_service_pb2 import PromoteModelVersionRequest
from tests.doors.test_signatures import MANIFEST, Keys
from tests.gateway.stack import Stack, refused
from tests.inference.bench import Bench
from tests.services import redis_server
from tests.waiting import until


def replaced(path: Path, data: bytes) -> None:
    """The file, changed as editors and secret mounts do it."""
    new = path.with_suffix(".new")
    new.write_bytes(data)
    new.rename(path)


@pytest.fixture
def old(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "old")


@pytest.fixture
def new(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "new")


def signed(signer: FileSigner) -> bytes:
    return sign_manifest(signer, MANIFEST)


def test_keys_that_are_added_hold_at_once_and_those_taken_out_no_more(old: Keys, new: Keys) -> None:
    keys = follow_trusted(str(old.trusted), Metrics())
    assert keys is not None
    first = keys()
    assert keys() is first
    with pytest.raises(ArtifactInvalid):
        keys().verify(MANIFEST, signed(new.signer))
    replaced(old.trusted, old.trusted.read_bytes() + new.trusted.read_bytes())
    for signer in (old.signer, new.signer):
        assert keys().verify(MANIFEST, signed(signer)) == signer.key_id
    replaced(old.trusted, new.trusted.read_bytes())
    with pytest.raises(ArtifactInvalid):
        keys().verify(MANIFEST, signed(old.signer))


@pytest.mark.parametrize("damaged", [b"", b"half a file", None])
def test_a_file_that_cannot_be_used_any_more_changes_nothing_and_a_metric_says_so(
    old: Keys, damaged: bytes | None
) -> None:
    metrics, good = Metrics(), old.trusted.read_bytes()
    value = metrics.registry.get_sample_value
    keys = follow_trusted(str(old.trusted), metrics)
    assert keys is not None
    assert value("gramserve_trusted_keys_unusable") == 0
    if damaged is None:
        old.trusted.unlink()
    else:
        replaced(old.trusted, damaged)
    assert value("gramserve_trusted_keys_unusable") == 1
    assert keys().verify(MANIFEST, signed(old.signer)) == old.signer.key_id
    again = go_on_trusting(str(old.trusted), keys().pem)  # a child that starts now
    assert again().verify(MANIFEST, signed(old.signer)) == old.signer.key_id
    replaced(old.trusted, good)
    assert value("gramserve_trusted_keys_unusable") == 0


def test_without_a_file_nothing_is_followed_and_one_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    metrics = Metrics()
    assert follow_trusted("", metrics) is None
    assert metrics.registry.get_sample_value("gramserve_trusted_keys_unusable") is None
    with pytest.raises(InvalidInput) as wrong:
        follow_trusted(str(tmp_path / "none"), metrics)
    assert wrong.value.reason is Reason.INVALID_SETTINGS


async def test_the_gateway_promotes_what_a_key_signed_that_came_after_its_start(
    old: Keys, new: Keys, tmp_path: Path
) -> None:
    async with redis_server(tmp_path / "redis") as redis:
        stack = Stack(tmp_path, redis, trusted_keys_file=str(old.trusted))
        await stack.publish(promote=False)
        await stack.registry.sign("gram", 1, new.signer)
        await stack.start()
        try:
            request = PromoteModelVersionRequest(name="models/gram/versions/1")
            code, error = await refused(stack.models.PromoteModelVersion(request))
            assert (code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, Reason.ARTIFACT_UNTRUSTED)
            replaced(old.trusted, new.trusted.read_bytes())
            await stack.models.PromoteModelVersion(request)
        finally:
            await stack.stop()


async def test_I13_a_worker_rotates_keys_while_it_serves(
    bench: Bench, old: Keys, new: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the documentation says: the new key is added, what serves is signed with it, the old one is taken out."""
    reads: list[str] = []

    def read(path: str) -> TrustedKeys:
        reads.append(path)
        return load_trusted(path)

    monkeypatch.setattr(signing, "load_trusted", read)
    monkeypatch.setattr(signing, "LOOK_S", 0.05)
    first, second = await bench.publish(), await bench.publish(sharpness=90.0, promote=False)
    await bench.registry.sign("gram", first.version, old.signer)
    await bench.registry.sign("gram", second.version, new.signer)

    async def run(version: Any, batch: str) -> tuple[SlideState, str]:
        await bench.submit([await bench.field()], version, batch=batch)
        outcome = (await bench.ended(batch))[0]
        return outcome.state, outcome.error.message if outcome.error else ""

    async with bench.worker(trusted_keys_file=str(old.trusted), children=1) as worker:
        assert await run(first, "b1") == (SlideState.SUCCEEDED, "")
        state, why = await run(second, "b2")
        assert (state, "ARTIFACT_UNTRUSTED" in why) == (SlideState.FAILED, True)
        replaced(old.trusted, old.trusted.read_bytes() + new.trusted.read_bytes())
        assert await run(second, "b3") == (SlideState.SUCCEEDED, "")
        assert await run(first, "b4") == (SlideState.SUCCEEDED, "")

        await until(lambda: len(reads) == 2)  # the worker looked at the file by itself
        replaced(old.trusted, b"half a file")
        (child,) = worker.children.pids
        os.kill(child, signal.SIGKILL)
        await until(lambda: worker.children.pids not in ([], [child]))
        assert await run(second, "b5") == (SlideState.SUCCEEDED, ""), "a child that started with a damaged file"

        replaced(old.trusted, new.trusted.read_bytes())
        state, why = await run(first, "b6")
        assert (state, "ARTIFACT_UNTRUSTED" in why) == (SlideState.FAILED, True)
        assert await run(second, "b7") == (SlideState.SUCCEEDED, "")
