"""The registry: whole versions or none, verified files, aliases that lose no promotion."""

from __future__ import annotations

import asyncio
import hashlib
from itertools import count

import pytest

from gramserve.errors import ArtifactInvalid, InvalidInput, NotFound, PreconditionFailed, Reason
from gramserve.store.codec import RecordCorrupt
from gramserve.store.objects import ObjectStore
from gramserve.store.records import AliasRecord
from gramserve.store.registry import Registry, Resolved
from tests.store.artifacts import FILES, draft


@pytest.fixture
def registry(objects: ObjectStore) -> Registry:
    return Registry(objects, clock=map(float, count(100)).__next__)


async def test_I13_a_published_version_is_found_and_its_files_are_verified(
    objects: ObjectStore, registry: Registry
) -> None:
    assert await registry.models() == []
    version, digest = await registry.publish("gram-1", FILES, draft())
    assert version == 1
    manifest, found = await Registry(objects).manifest("gram-1", 1)
    raw = await objects.get("models/gram-1/versions/1/manifest.json")
    assert found == digest == hashlib.sha256(raw).hexdigest()
    assert (manifest.model, manifest.version, manifest.labels) == ("gram-1", 1, draft().labels)
    assert {name: file.bytes for name, file in manifest.files.items()} == {n: len(d) for n, d in FILES.items()}
    for name, data in FILES.items():
        assert await registry.read_file("gram-1", 1, name) == registry.read_file_sync("gram-1", 1, name) == data
    assert await registry.models() == ["gram-1"]
    assert await registry.versions("gram-1") == [1]
    assert await registry.versions("unknown") == []


async def test_I13_an_altered_file_is_ARTIFACT_CORRUPT_and_a_missing_one_ARTIFACT_INCOMPLETE(
    objects: ObjectStore, registry: Registry
) -> None:
    await registry.publish("m", FILES, draft())
    await objects.put("models/m/versions/1/model.onnx", b"Weights")
    await objects.put("models/m/versions/1/golden.npz", b"numbers and more")
    await objects.delete("models/m/versions/1/card.md")
    await objects.put("models/m/versions/1/stowaway", b"x")
    expected = {
        "model.onnx": Reason.ARTIFACT_CORRUPT,
        "golden.npz": Reason.ARTIFACT_CORRUPT,
        "card.md": Reason.ARTIFACT_INCOMPLETE,
        "stowaway": Reason.ARTIFACT_INCOMPLETE,
        "../../m/versions/1/model.onnx": Reason.ARTIFACT_INCOMPLETE,
    }
    for name, reason in expected.items():
        with pytest.raises(ArtifactInvalid) as caught:
            await registry.read_file("m", 1, name)
        assert caught.value.reason is reason, name


async def test_I13_a_manifest_of_another_version_or_none_at_all_does_not_serve(
    objects: ObjectStore, registry: Registry
) -> None:
    await registry.publish("m", FILES, draft())
    await objects.put("models/m/versions/2/manifest.json", await objects.get("models/m/versions/1/manifest.json"))
    await objects.put("models/m/versions/3/manifest.json", b"{}")
    for version in (2, 3):
        with pytest.raises(ArtifactInvalid) as caught:
            await registry.manifest("m", version)
        assert caught.value.reason is Reason.ARTIFACT_CORRUPT
    with pytest.raises(NotFound) as unknown:
        await registry.manifest("m", 4)
    assert unknown.value.reason is Reason.UNKNOWN_MODEL_VERSION


@pytest.mark.slow
async def test_concurrent_publishers_get_versions_of_their_own(objects: ObjectStore) -> None:
    done = await asyncio.gather(
        *(Registry(objects).publish("m", {"model.onnx": str(n).encode()}, draft()) for n in range(12))
    )
    assert sorted(version for version, _ in done) == list(range(1, 13))
    for n, (version, digest) in enumerate(done):
        assert await Registry(objects).read_file("m", version, "model.onnx") == str(n).encode()
        assert (await Registry(objects).manifest("m", version))[1] == digest


async def test_a_publisher_that_died_leaves_a_number_unused_and_nothing_visible(
    objects: ObjectStore, registry: Registry
) -> None:
    await objects.create("models/m/versions/1/reserved", b"\n")
    await objects.put("models/m/versions/1/model.onnx", b"half")
    assert await registry.versions("m") == []
    assert await registry.models() == []
    with pytest.raises(NotFound):
        await registry.resolve("models/m/versions/1")
    assert (await registry.publish("m", FILES, draft()))[0] == 2
    assert await registry.versions("m") == [2]
    for _ in range(9):
        await registry.publish("m", FILES, draft())
    assert await registry.versions("m") == list(range(2, 12))


async def test_names_are_checked(registry: Registry) -> None:
    for model in ("", "1a", "-a", "A", "a_b", "a" * 64, "../a", "a/b", "a\n", "ä"):
        with pytest.raises(InvalidInput) as caught:
            await registry.publish(model, FILES, draft())
        assert caught.value.violations[0][0] == "model"
        with pytest.raises(InvalidInput):
            await registry.resolve(f"models/{model}")
    for name in ("manifest.json", "reserved", "../x", "a/b", "", ".x"):
        with pytest.raises(InvalidInput):
            await registry.publish("m", {name: b""}, draft())
    assert (await registry.publish("a" * 63, FILES, draft()))[0] == 1
    with pytest.raises(InvalidInput):
        await registry.promote("a" * 63, 1, "7")


async def test_promotions_keep_their_history_and_rollback_goes_back_through_it(registry: Registry) -> None:
    for _ in range(3):
        await registry.publish("m", FILES, draft())
    assert await registry.alias("m", "production") is None
    with pytest.raises(PreconditionFailed):
        await registry.rollback("m")
    assert await registry.promote("m", 1) == AliasRecord(1, (), 100.0)
    with pytest.raises(PreconditionFailed) as caught:
        await registry.rollback("m")
    assert caught.value.reason is Reason.NOTHING_TO_ROLL_BACK
    assert await registry.promote("m", 3) == AliasRecord(3, (1,), 101.0)
    assert await registry.promote("m", 3) == AliasRecord(3, (1,), 101.0)
    assert await registry.promote("m", 2) == AliasRecord(2, (1, 3), 102.0)
    assert await registry.promote("m", 1, "blue") == AliasRecord(1, (), 103.0)
    assert await registry.rollback("m") == AliasRecord(3, (1,), 104.0)
    assert await registry.rollback("m") == AliasRecord(1, (), 105.0)
    assert await registry.alias("m", "production") == AliasRecord(1, (), 105.0)
    with pytest.raises(NotFound) as unknown:
        await registry.promote("m", 4)
    assert unknown.value.reason is Reason.UNKNOWN_MODEL_VERSION


async def test_a_shadow_has_a_share_that_stays_until_another_one_is_given(registry: Registry) -> None:
    for _ in range(2):
        await registry.publish("m", FILES, draft())
    assert await registry.promote("m", 1, "shadow") == AliasRecord(1, (), 100.0, 0.1)
    assert await registry.promote("m", 1, "shadow", share=0.5) == AliasRecord(1, (), 101.0, 0.5)
    assert await registry.promote("m", 1, "shadow") == AliasRecord(1, (), 101.0, 0.5)
    assert await registry.promote("m", 2, "shadow") == AliasRecord(2, (1,), 102.0, 0.5)
    assert await registry.rollback("m", "shadow") == AliasRecord(1, (), 103.0, 0.5)
    for alias, share in (("shadow", 0.0), ("shadow", 1.5), ("shadow", float("nan")), ("production", 0.5)):
        with pytest.raises(InvalidInput) as caught:
            await registry.promote("m", 1, alias, share=share)
        assert caught.value.violations[0][0] == "share"


async def test_a_removed_alias_stands_for_nothing_and_rollback_brings_it_back(registry: Registry) -> None:
    for _ in range(2):
        await registry.publish("m", FILES, draft())
    await registry.remove("m", "shadow")
    assert await registry.alias("m", "shadow") is None
    await registry.promote("m", 1, "shadow", share=0.3)
    await registry.remove("m", "shadow")
    await registry.remove("m", "shadow")
    assert await registry.alias("m", "shadow") is None
    with pytest.raises(NotFound) as unknown:
        await registry.resolve("models/m/versions/shadow")
    assert unknown.value.reason is Reason.UNKNOWN_MODEL_VERSION
    back = await registry.rollback("m", "shadow")
    assert (back.version, back.history, back.share) == (1, (), 0.3)
    await registry.remove("m", "shadow")
    again = await registry.promote("m", 2, "shadow")
    assert (again.version, again.history, again.share) == (2, (1,), 0.3)


async def test_production_moves_but_is_never_removed(registry: Registry) -> None:
    await registry.publish("m", FILES, draft())
    await registry.promote("m", 1)
    with pytest.raises(InvalidInput):
        await registry.remove("m", "production")
    assert await registry.alias("m", "production") is not None


@pytest.mark.slow
async def test_of_concurrent_promotions_none_is_lost(objects: ObjectStore, registry: Registry) -> None:
    for _ in range(8):
        await registry.publish("m", FILES, draft())
    await asyncio.gather(*(Registry(objects).promote("m", version) for version in range(1, 9)))
    record = await registry.alias("m", "production")
    assert record is not None
    assert sorted((*record.history, record.version)) == list(range(1, 9))


async def test_a_reference_is_resolved_to_a_version_and_its_digest(registry: Registry) -> None:
    digests = {}
    for _ in range(2):
        version, digest = await registry.publish("m", FILES, draft())
        digests[version] = digest
    for ref in ("models/m", "models/m/versions/production", "models/m/versions/3", "models/m/versions/0"):
        with pytest.raises(NotFound) as caught:
            await registry.resolve(ref)
        assert caught.value.reason is Reason.UNKNOWN_MODEL_VERSION, ref
    await registry.promote("m", 1)
    assert await registry.resolve("models/m") == Resolved("m", 1, digests[1])
    assert await registry.resolve("models/m/versions/production") == Resolved("m", 1, digests[1])
    found = await registry.resolve("models/m/versions/2")
    assert found == Resolved("m", 2, digests[2])
    assert found.name == "models/m/versions/2"
    for ref in ("models/nobody", "models/nobody/versions/1", "models/nobody/versions/production"):
        with pytest.raises(NotFound) as caught:
            await registry.resolve(ref)
        assert caught.value.reason is Reason.UNKNOWN_MODEL
    for ref in ("", "m", "models", "models/m/versions", "models/m/x/1", "models/m/versions/1/x", "models/m/versions/²"):
        with pytest.raises(InvalidInput):
            await registry.resolve(ref)


async def test_a_damaged_alias_is_said_with_a_type(objects: ObjectStore, registry: Registry) -> None:
    await registry.publish("m", FILES, draft())
    await objects.put("models/m/aliases/production", b"?")
    for call in (registry.alias("m", "production"), registry.promote("m", 1), registry.resolve("models/m")):
        with pytest.raises(RecordCorrupt):
            await call
