"""An artifact is damaged, swapped or deleted: no slide is called by anything but what its batch was frozen to (I13)."""

from __future__ import annotations

import pytest

from gramserve.errors import ArtifactInvalid, Reason
from gramserve.store.objects import ObjectStore
from gramserve.store.registry import Resolved
from tests.artifacts import publish_tiny
from tests.faults.harness import STATE, Service, Site, key_of
from tests.faults.matrix import Fault
from tests.waiting import until

whole = pytest.mark.whole
CANNOT_SERVE = "promoted version cannot serve here; others do"


async def flipped(objects: ObjectStore, version: str, _other: str) -> None:
    """One bit of the weights."""
    data = bytearray(await objects.get(f"{version}/model.onnx"))
    data[len(data) // 2] ^= 1
    await objects.put(f"{version}/model.onnx", bytes(data))


async def truncated(objects: ObjectStore, version: str, _other: str) -> None:
    """The end of the weights is gone."""
    data = await objects.get(f"{version}/model.onnx")
    await objects.put(f"{version}/model.onnx", data[:-1])


async def without_golden(objects: ObjectStore, version: str, _other: str) -> None:
    """A file that the manifest lists is gone."""
    await objects.delete(f"{version}/golden.npz")


async def other_weights(objects: ObjectStore, version: str, other: str) -> None:
    """The weights of another version, whole."""
    await objects.put(f"{version}/model.onnx", await objects.get(f"{other}/model.onnx"))


DAMAGES = {damage.__name__: damage for damage in (flipped, truncated, without_golden, other_weights)}


async def published(site: Site) -> tuple[Resolved, Resolved]:
    """The version in production, and one more that is not."""
    number, digest = await publish_tiny(site.registry, promote=False, sharpness=90.0)
    return await site.registry.resolve("models/gram/versions/1"), Resolved("gram", number, digest)


@pytest.mark.parametrize(
    "damage", ["flipped", *(pytest.param(name, marks=whole) for name in DAMAGES if name != "flipped")]
)
async def test_I13_a_damaged_version_never_serves_and_the_one_before_goes_on(
    damage: str, site: Site, fault: Fault
) -> None:
    fault("artifact, flipped bit, truncated, file missing, other weights", invariants="I1 I13")
    old, new = await published(site)
    whole_files = {name: await site.objects.get(f"{new.name}/{name}") for name in ("model.onnx", "golden.npz")}
    await DAMAGES[damage](site.objects, new.name, old.name)
    await site.gateway()
    worker = await site.worker()
    await site.registry.promote("gram", new.version)
    fault.inject()
    assert (await worker.logged(CANNOT_SERVE))["version"] == new.name
    frozen = await site.create(site.pictures("ok", "ok"), model=old.name)
    hopeless = await site.create(site.pictures("ok", "ok"))
    ended = {batch.name: batch.state for batch in await site.ended()}
    assert ended == {frozen: STATE.STATE_SUCCEEDED, hopeless: STATE.STATE_FAILED}
    assert await digests(site, frozen) == {old.digest}
    assert await reasons(site, hopeless) == {"MODEL_UNAVAILABLE"}
    # Repaired, it serves without a restart.
    for name, data in whole_files.items():
        await site.objects.put(f"{new.name}/{name}", data)
    await until(lambda: serves(worker, new), what="the repaired version serves")
    await site.client().retry_batch(hopeless)
    found = await fault.proved(site)
    fault.handed_over()
    assert found.ended == {"SUCCEEDED": 4}
    assert await digests(site, hopeless) == {new.digest}


@whole
async def test_I13_a_batch_is_not_accepted_for_a_version_with_the_manifest_of_another(site: Site, fault: Fault) -> None:
    fault("artifact, manifest swapped before a batch was frozen to it", invariants="I13")
    old, new = await published(site)
    await site.gateway()
    await site.worker()
    await site.objects.put(f"{new.name}/manifest.json", await site.objects.get(f"{old.name}/manifest.json"))
    fault.inject()
    with pytest.raises(ArtifactInvalid) as refused:
        await site.create(site.pictures("ok"), model=new.name)
    assert refused.value.reason is Reason.ARTIFACT_CORRUPT
    await site.create(site.pictures("ok"), model=old.name)
    found = await fault.proved(site)
    assert (found.batches, found.ended) == (1, {"SUCCEEDED": 1})


@whole
async def test_I13_a_manifest_that_is_swapped_under_an_accepted_batch_calls_none_of_its_slides(
    site: Site, fault: Fault
) -> None:
    fault("artifact, manifest swapped after a batch was frozen to it", invariants="I1 I13")
    old, new = await published(site)
    await site.gateway()
    name = await site.create(site.pictures("ok", "ok"), model=new.name)
    await site.objects.put(f"{new.name}/manifest.json", await site.objects.get(f"{old.name}/manifest.json"))
    fault.inject()
    await site.worker()
    await site.ended()
    assert await reasons(site, name) == {"MODEL_UNAVAILABLE"}
    await fault.proved(site)


@whole
async def test_I13_a_version_that_is_deleted_while_it_serves_serves_its_batches_to_the_end(
    site: Site, fault: Fault
) -> None:
    fault("artifact, deleted while in use", invariants="I1 I13")
    await site.gateway()
    first = await site.worker()
    version = await site.registry.resolve("models/gram/versions/1")
    image = site.picture("hold")
    name = await site.create([image, *site.pictures("ok", "ok")])
    await site.held(image)
    for file in ("model.onnx", "golden.npz"):
        await site.objects.delete(f"{version.name}/{file}")
    fault.inject()
    site.let_go(image)
    assert (await site.ended(name))[0].state == STATE.STATE_SUCCEEDED
    assert await digests(site, name) == {version.digest}
    # Whoever has not loaded it cannot serve it, and says so for each slide.
    await first.term()
    await site.worker()
    later = await site.create(site.pictures("ok"))
    await site.ended(later)
    assert await reasons(site, later) == {"MODEL_UNAVAILABLE"}
    found = await fault.proved(site)
    assert found.ended == {"SUCCEEDED": 3, "FAILED": 1}


def serves(worker: Service, version: Resolved) -> bool:
    return any(line["event"] == "promoted version serves" and line["version"] == version.name for line in worker.log)


async def digests(site: Site, name: str) -> set[str]:
    """The artifacts that the results of a batch name."""
    laboratory, batch = key_of(name)
    return {outcome.artifact_digest async for outcome in site.batches.outcomes(laboratory, batch)}


async def reasons(site: Site, name: str) -> set[str]:
    """Why the slides of a batch failed."""
    laboratory, batch = key_of(name)
    return {outcome.error.reason if outcome.error else "" async for outcome in site.batches.outcomes(laboratory, batch)}
