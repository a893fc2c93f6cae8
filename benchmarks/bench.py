"""What the benchmarks of one run share, made when it is first asked for, and how much is measured."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

from benchmarks import artifact, fields
from benchmarks.loops import BareLoops
from benchmarks.stack import Stack, running
from benchmarks.workload import Workload

MANY_TILES = 8
"""Tiles along an edge of the field of a large slide."""


@dataclass(frozen=True, slots=True)
class Extent:
    """Rounds of turns, the share of slides that are submitted, and seconds of each short measurement."""

    rounds: int
    share: float
    seconds: float

    def of(self, count: int) -> int:
        """The share of `count`, at least 4."""
        return max(int(count * self.share), 4)


FULL = Extent(rounds=5, share=1.0, seconds=4.0)
QUICK = Extent(rounds=1, share=0.1, seconds=0.5)


class Bench:
    """One run in `folder`; everything that it starts ends with `exits`."""

    def __init__(self, folder: Path, extent: Extent, exits: ExitStack) -> None:
        self.folder = folder
        self.extent = extent
        self._exits = exits
        self.cores = len(os.sched_getaffinity(0))
        self.manifests = folder / "manifests"
        self.manifests.mkdir()
        os.environ["GRAMSERVE_GATEWAY_MANIFEST_ROOTS"] = str(self.manifests)
        os.environ["GRAMSERVE_WORKER_ALLOWED_ROOTS"] = str(folder)
        # Workloads repeat their images; every slide is to be run.
        os.environ["GRAMSERVE_WORKER_REUSE_RESULTS"] = "false"

    @property
    def data_dir(self) -> Path:
        """The folder of the main stack; its store has the benchmark's models in production."""
        return self.folder / "data"

    @cached_property
    def published(self) -> artifact.Published:
        """The models, in the store of the main stack."""
        return artifact.publish(self.data_dir / "store")

    @cached_property
    def stack(self) -> Stack:
        """The main stack: `gramserve up` as it comes."""
        assert self.published
        return self._exits.enter_context(running(self.data_dir))

    @cached_property
    def one_child(self) -> Stack:
        """A stack whose worker has a single child."""
        return self._exits.enter_context(self.another_stack("one", "--children=1"))

    def another_stack(
        self, name: str, *options: str, variables: Mapping[str, str] = MappingProxyType({})
    ) -> AbstractContextManager[Stack]:
        """A stack of its own with the same models, without an optimizer; `variables` are added to its environment."""
        other = self.folder / name
        assert self.published
        shutil.copytree(self.data_dir / "store/models", other / "store/models")
        return running(other, "--no-optimizer", *options, variables=variables)

    @cached_property
    def bare(self) -> BareLoops:
        """A bare loop for each core."""
        return self._exits.enter_context(BareLoops(self.published, self.cores))

    @cached_property
    def large(self) -> Workload:
        """Slides of 64 tiles that go to the network as they are."""
        drawn = fields.draw(self.folder / "large", 8, MANY_TILES * artifact.TILE_PX)
        return Workload("64 tiles a slide", artifact.TILES, drawn, self.extent.of(80), MANY_TILES**2)

    @cached_property
    def small(self) -> Workload:
        """Slides of one tile of a camera's field."""
        drawn = fields.draw(self.folder / "small", 32, artifact.CAMERA_PX)
        return Workload("one 500 x 500 tile a slide", artifact.CAMERA, drawn, self.extent.of(2000), 1)

    @cached_property
    def tiles(self) -> Workload:
        """Slides of one tile that goes to the network as it is."""
        drawn = fields.draw(self.folder / "tiles", 16, artifact.TILE_PX)
        return Workload("one tile a slide", artifact.TILES, drawn, self.extent.of(5000), 1)
