"""A child's part of a divided slide: interrupted by other work, and of a file that somebody writes meanwhile."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gramserve.errors import Reason, SlideFailed
from gramserve.images.limits import ImageLimits
from gramserve.images.open import ReferenceOpener
from gramserve.runtime.artifact import LoadedArtifact, load_artifact
from gramserve.runtime.readings import Readings
from gramserve.samples.pyramid import painter, write_pyramid
from gramserve.store.manifest import manifest_digest
from gramserve.store.objects import open_store
from gramserve.store.records import ImageRecord
from inference_svc.pictures import Pictures
from inference_svc.protocol import RunSlide
from inference_svc.whole import TooLargeForOne, WholeSlides
from tests.artifacts import tiny_artifact
from tests.handles import open_below
from tests.images.files import picture


@pytest.fixture
def artifact() -> LoadedArtifact:
    files, manifest = tiny_artifact()
    return load_artifact(files.__getitem__, manifest.to_json(), manifest_digest(manifest.to_json()))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_pyramid(tmp_path / "slide.tif", 2048, 2048, painter(picture(2048, 2048)))
    return tmp_path / "slide.tif"


@pytest.fixture
def pictures(path: Path) -> Pictures:
    store = open_store(str(path.parent / "store"))
    opener = ReferenceOpener(store, allowed_roots=[path.parent], max_bytes=1 << 20, max_slide_bytes=1 << 30)
    return Pictures(opener, ImageLimits())


def parts_of(path: Path, whole: WholeSlides, pictures: Pictures, artifact: LoadedArtifact) -> list[RunSlide]:
    """The work of each part, once a child said that the slide shall be divided."""
    images = (ImageRecord(uri=str(path)),)
    work = RunSlide(1, "lab", images, "models/gram/versions/1", artifact.digest)
    contract = artifact.contract.preprocessing
    opened = whole.dividing(work, contract)
    with pytest.raises(TooLargeForOne) as large:
        list(pictures.of("lab", images, contract, {"fetch": 0.0, "decode": 0.0}, opened=opened))
    shards = large.value.shards
    return [replace(work, shard=n, shards=shards, blob=large.value.plan) for n in range(shards)]


def test_other_parts_read_in_between_disturb_nothing(path, pictures, artifact):
    whole = WholeSlides(pictures, shard_tiles=300)
    first, second, *_ = parts_of(path, whole, pictures, artifact)
    alone = Readings.from_bytes(whole.read(first, artifact).blob)
    between: list[int] = []

    def urgent() -> None:
        if not between:
            between.append(whole.read(second, artifact).tiles)
            whole.close()

    disturbed = Readings.from_bytes(whole.read(first, artifact, between=urgent).blob)
    assert between[0] > 0
    assert np.array_equal(disturbed.logits, alone.logits)
    assert list(disturbed.places) == list(alone.places)


@pytest.mark.parametrize("when", ["before the part", "during the part"])
def test_a_slide_that_changes_while_it_is_read_fails_and_may_be_tried_again(path, pictures, artifact, when):
    whole = WholeSlides(pictures, shard_tiles=300)
    work = parts_of(path, whole, pictures, artifact)[0]

    def touch() -> None:
        os.utime(path, (1.0, 1.0))

    if when == "before the part":
        touch()
    with pytest.raises(SlideFailed) as failed:
        whole.read(work, artifact, between=touch)
    assert failed.value.reason is Reason.SLIDE_UNREADABLE
    assert failed.value.retryable


def test_an_undivided_slide_that_changes_while_it_is_read_fails_too(path, pictures, artifact):
    contract = artifact.contract.preprocessing
    images = [ImageRecord(uri=str(path))]
    given = pictures.of("lab", images, contract, {"fetch": 0.0, "decode": 0.0})
    with pytest.raises(SlideFailed) as failed:
        artifact.read(given, between=lambda: os.utime(path, (1.0, 1.0)))
    assert failed.value.retryable


def test_nothing_stays_open_once_it_is_closed(path, pictures, artifact):
    whole = WholeSlides(pictures, shard_tiles=300)
    for work in parts_of(path, whole, pictures, artifact):
        whole.read(work, artifact)
    assert str(path) in open_below(path.parent)
    whole.close()
    assert open_below(path.parent) == []
