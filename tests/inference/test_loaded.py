"""Loaded versions: bounded in number and bytes, never at the cost of one that runs, a failure costs no other."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import onnx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from gramserve.errors import Reason
from gramserve.store.manifest import ArtifactFile, ArtifactManifest, manifest_digest
from gramserve.store.objects import ObjectMissing
from gramserve.store.signing import FileSigner, TrustedKeys, sign_manifest
from inference_svc.footprint import ProcessMemory
from inference_svc.loaded import LoadedModels, ModelUnavailable
from tests.artifacts import tiny_artifact

MB = 2**20


class Shelf:
    """A store and the memory of a process in which each version takes as many bytes as the test says."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.bytes = 500 * MB
        self.takes: dict[str, int] = {}
        self.trims = 0
        self.now_s = 0.0
        self.told: list[tuple[tuple[str, ...], int]] = []
        self.fail: Callable[[str], None] = lambda path: None

    def get_sync(self, path: str) -> bytes:
        self.fail(path)
        if path not in self.objects:
            raise ObjectMissing(path)
        if path.endswith("model.onnx"):
            self.bytes += self.takes[path.removesuffix("/model.onnx")]
        return self.objects[path]

    def used(self) -> int:
        return self.bytes

    def trim(self) -> None:
        self.trims += 1

    def publish(self, number: int, takes: int) -> tuple[str, str]:
        files, manifest = tiny_artifact()
        data = manifest.model_copy(update={"version": number}).to_json()
        folder = f"models/gram/versions/{number}"
        self.objects |= {f"{folder}/{name}": content for name, content in files.items()}
        self.objects[f"{folder}/manifest.json"] = data
        self.takes[folder] = takes
        return folder, manifest_digest(data)

    def models(
        self, *, most: int = 10, most_bytes: int = 100 * MB, trusted: Callable[[], TrustedKeys] | None = None
    ) -> LoadedModels:
        return LoadedModels(
            self,
            most=most,
            most_bytes=most_bytes,
            memory=self,
            changed=lambda versions, size: self.told.append((versions, size)),
            clock=lambda: self.now_s,
            trusted=trusted,
        )


def _numbers(versions: tuple[str, ...]) -> list[int]:
    return [int(version.rpartition("/")[2]) for version in versions]


def test_the_least_recently_used_versions_go_when_the_bytes_are_too_many() -> None:
    shelf = Shelf()
    models = shelf.models()
    published = [shelf.publish(number, 40 * MB) for number in range(1, 5)]
    models.get(*published[0])
    models.get(*published[1])
    models.get(*published[0])
    models.get(*published[2])
    assert (_numbers(shelf.told[-1][0]), shelf.told[-1][1]) == ([1, 3], 80 * MB)
    models.get(*published[3])
    assert _numbers(shelf.told[-1][0]) == [3, 4]


def test_a_version_counts_no_less_than_its_model_file_whatever_the_process_grew_by() -> None:
    shelf = Shelf()
    models = shelf.models()
    version, digest = shelf.publish(1, 0)
    models.get(version, digest)
    assert shelf.told[-1][1] == len(shelf.objects[f"{version}/model.onnx"])


def test_a_version_larger_than_the_bound_is_kept_alone() -> None:
    shelf = Shelf()
    models = shelf.models()
    small, large = shelf.publish(1, 10 * MB), shelf.publish(2, 300 * MB)
    models.get(*small)
    models.get(*large)
    assert _numbers(shelf.told[-1][0]) == [2]


def test_a_version_that_runs_stays_however_little_room_there_is() -> None:
    shelf = Shelf()
    models = shelf.models(most_bytes=50 * MB)
    old, new = shelf.publish(1, 40 * MB), shelf.publish(2, 40 * MB)
    with models.running(*old):
        mine = models.get(*old)
        models.get(*new)
        assert _numbers(shelf.told[-1][0]) == [1, 2]
        assert models.get(*old) is mine
    # It runs no more: what was used longest ago goes at once.
    assert _numbers(shelf.told[-1][0]) == [1]


def test_a_version_that_fails_costs_none_that_serves() -> None:
    shelf = Shelf()
    models = shelf.models(most=1)
    old, broken = shelf.publish(1, MB), shelf.publish(2, MB)
    shelf.objects[f"{broken[0]}/model.onnx"] += b"?"
    mine = models.get(*old)
    with pytest.raises(ModelUnavailable) as caught:
        models.get(*broken)
    assert caught.value.cause is Reason.ARTIFACT_CORRUPT
    assert models.get(*old) is mine
    assert [_numbers(versions) for versions, _ in shelf.told] == [[1]]


def test_other_trusted_keys_count_at_once_for_what_is_loaded_and_for_what_was_refused() -> None:
    shelf = Shelf()
    version, digest = shelf.publish(1, MB)
    ours, theirs = (FileSigner(Ed25519PrivateKey.generate()) for _ in range(2))
    shelf.objects[f"{version}/manifest.sig"] = sign_manifest(ours, shelf.objects[f"{version}/manifest.json"])
    keys = [TrustedKeys([theirs.public_key])]
    models = shelf.models(trusted=lambda: keys[-1])
    for _ in range(2):
        with pytest.raises(ModelUnavailable) as caught:
            models.get(version, digest)
        assert caught.value.cause is Reason.ARTIFACT_UNTRUSTED
        keys.append(TrustedKeys([ours.public_key]))
        mine = models.get(version, digest)
        assert models.get(version, digest) is mine
        assert _numbers(shelf.told[-1][0]) == [1]
        keys.append(TrustedKeys([theirs.public_key]))
    with pytest.raises(ModelUnavailable):
        models.get(version, digest)
    assert shelf.told[-1] == ((), 0)


def test_a_failure_is_remembered_for_a_pause_that_grows_and_holds_on_to_no_bytes_of_the_model() -> None:
    shelf = Shelf()
    models = shelf.models()
    version, digest = shelf.publish(1, MB)
    path = f"{version}/model.onnx"
    shelf.objects[path] += b"?"
    reads = 0

    def count(read: str) -> None:
        nonlocal reads
        reads += read == path

    shelf.fail = count
    for now_s, expected in ((0.0, 1), (0.4, 1), (0.6, 2), (1.5, 2), (1.7, 3)):
        shelf.now_s = now_s
        with pytest.raises(ModelUnavailable) as caught:
            models.get(version, digest)
        assert caught.value.__context__ is None
        assert reads == expected, now_s


def test_spare_memory_takes_nothing_from_anybody_and_fails_nothing_but_itself() -> None:
    shelf = Shelf()
    models = shelf.models(most_bytes=50 * MB)
    old, candidate = shelf.publish(1, 40 * MB), shelf.publish(2, 40 * MB)
    mine = models.get(*old)
    with pytest.raises(ModelUnavailable) as caught:
        models.get(*candidate, spare=True)
    assert caught.value.cause is Reason.OUT_OF_MEMORY
    assert models.get(*old) is mine
    # Promoted meanwhile, it is loaded at once: then others may go for it.
    models.get(*candidate)
    assert _numbers(shelf.told[-1][0]) == [2]


def test_what_is_not_used_goes_when_there_is_no_memory_to_load_another() -> None:
    shelf = Shelf()
    models = shelf.models()
    old, new = shelf.publish(1, MB), shelf.publish(2, MB)
    models.get(*old)
    short = True

    def no_memory(path: str) -> None:
        nonlocal short
        if path == f"{new[0]}/model.onnx" and short:
            short = False
            raise MemoryError

    shelf.fail = no_memory
    models.get(*new)
    assert _numbers(shelf.told[-1][0]) == [2]
    short = True
    with pytest.raises(MemoryError):
        shelf.models().get(*new)
    # What may only have spare memory fails as one does that cannot be used here.
    short = True
    models = shelf.models()
    models.get(*old)
    with pytest.raises(ModelUnavailable) as caught:
        models.get(*new, spare=True)
    assert caught.value.cause is Reason.OUT_OF_MEMORY


def _heavy(number: int, size: int) -> tuple[dict[str, bytes], ArtifactManifest]:
    """A tiny artifact whose model carries `size` bytes of weights that it uses and cannot fold away."""
    files, manifest = tiny_artifact()
    model = onnx.load_from_string(files["model.onnx"])
    table = np.random.default_rng(number).standard_normal((size // 20, 5)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(table, "table"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(0, np.int64), "zero"))
    model.graph.node[-1].output[0] = "plain"
    model.graph.node.extend(
        [
            helper.make_node("Shape", ["tiles"], ["sizes"], start=3, end=4),
            helper.make_node("Sub", ["sizes", "sizes"], ["row"]),
            helper.make_node("Gather", ["table", "row"], ["found"]),
            helper.make_node("Mul", ["found", "nothing"], ["silent"]),
            helper.make_node("Add", ["plain", "silent"], ["logits"]),
        ]
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(0, np.float32), "nothing"))
    files["model.onnx"] = model.SerializeToString()
    listed = {
        name: ArtifactFile(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data)) for name, data in files.items()
    }
    return files, manifest.model_copy(update={"version": number, "files": listed})


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is measured where Linux tells it")
def test_the_memory_of_a_process_stays_bounded_while_versions_come_and_go() -> None:
    shelf, memory = Shelf(), ProcessMemory()
    size = 16 * MB
    versions = []
    for number in range(1, 7):
        files, manifest = _heavy(number, size)
        folder = f"models/gram/versions/{number}"
        data = manifest.to_json()
        shelf.objects |= {f"{folder}/{name}": content for name, content in files.items()}
        shelf.objects[f"{folder}/manifest.json"] = data
        shelf.takes[folder] = 0
        versions.append((folder, manifest_digest(data)))
    models = LoadedModels(
        shelf,
        most=10,
        most_bytes=3 * size,
        memory=memory,
        changed=lambda versions, size: shelf.told.append((versions, size)),
        clock=lambda: 0.0,
    )
    gc.collect()
    models.get(*versions[0])
    memory.trim()
    one = memory.used()
    for version in (*versions, *versions[:2]):
        models.get(*version)
        memory.trim()
        assert shelf.told[-1][1] <= 3 * size
        assert memory.used() - one < 3.5 * size
    assert max(len(versions) for versions, _ in shelf.told) >= 2


@settings(max_examples=8)
@given(
    sizes=st.lists(st.integers(1, 120), min_size=4, max_size=4),
    steps=st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=6),
)
def test_whatever_is_asked_for_in_whatever_order_the_bound_holds_for_what_does_not_run(
    sizes: list[int], steps: list[tuple[int, bool]]
) -> None:
    shelf = Shelf()
    models = shelf.models()
    published = [shelf.publish(number, size * MB) for number, size in enumerate(sizes, 1)]
    with ExitStack() as running:
        held: set[int] = set()
        newest = 0
        for which, runs in steps:
            if runs:
                running.enter_context(models.running(*published[which]))
                held.add(which + 1)
            before = set(_numbers(shelf.told[-1][0])) if shelf.told else set()
            assert models.get(*published[which]).digest == published[which][1]
            after, size = set(_numbers(shelf.told[-1][0])), shelf.told[-1][1]
            newest = newest if which + 1 in before else which + 1
            assert which + 1 in after
            assert held & before <= after
            assert size <= 100 * MB or after <= held | {newest}
    assert shelf.told[-1][1] <= 100 * MB or len(shelf.told[-1][0]) == 1
