"""A search that goes on after a death, also where the work folder is empty: another machine, or a lost disk."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from obstore.store import MemoryStore

from gramserve.store.objects import LocalObjects, ObjectStore, RemoteObjects
from gramserve.v1.optimization_pb2 import Trial
from gramserve.v1.optimizer_service_pb2 import ListOptimizationsRequest
from optimizer_svc.hold import Interrupted
from optimizer_svc.stages import STAGE, Stages, forget
from optimizer_svc.workspace import DONE, Kept, Workspace
from tests.optimizer_service.conftest import Bench, Caller, State, answer, gone, id_of
from tests.optimizer_service.test_crashes import service_process
from tests.waiting import HANGS_S, until

PREFIX = "optimizations/opt-1/stages"
KEY = {"of": "test"}


async def _objects(bench: Bench, name: str) -> list[str]:
    return [info.path.removeprefix(f"{name}/") async for info in bench.store.list(name)]


async def _stage_is_in_the_store(bench: Bench, name: str) -> bool:
    return any(path.endswith(f"/{STAGE}") for path in await _objects(bench, name))


def _pid(bench: Bench, name: str) -> int:
    return int((bench.folder / "work" / id_of(name) / "run" / "pid").read_text())


async def test_after_kill_9_and_with_an_empty_work_folder_the_search_goes_on_after_its_last_finished_stage(
    bench: Bench,
) -> None:
    async with service_process(bench) as service, service.caller() as caller:
        created = await caller.create("waits_after_a_stage")
        await until(lambda: _stage_is_in_the_store(bench, created.name))
        first = _pid(bench, created.name)
        await service.kill()
    await gone(first)
    shutil.rmtree(bench.folder / "work")
    async with bench.service() as caller:
        done = await caller.ended(created.name)
        await until(lambda: _only_the_result_is_left(bench, created.name))
    assert done.state == State.STATE_SUCCEEDED
    assert json.loads(await bench.store.get(f"{created.name}/report.json")) == {"maker": first}
    assert done.progress.elapsed.seconds == 61  # 60 of the first run and 1 of the second


async def _only_the_result_is_left(bench: Bench, name: str) -> bool:
    return await _objects(bench, name) == [
        "optimization.json",
        "outcome.json",
        "progress.json",
        "report.html",
        "report.json",
        "trials.json",
    ]


async def test_after_SIGTERM_the_stage_that_was_finished_last_is_in_the_store(bench: Bench) -> None:
    async with service_process(bench) as service, service.caller() as caller:
        created = await caller.create("waits_after_a_stage")
        await caller.when(created.name, lambda now: now.progress.stage == "prune")
        service.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(service.process.wait(), HANGS_S) == 0
    assert await _stage_is_in_the_store(bench, created.name)


async def test_a_search_that_is_cancelled_leaves_its_trials_and_no_stages(bench: Bench, caller: Caller) -> None:
    created = await caller.create("waits_after_a_stage")
    await until(lambda: _stage_is_in_the_store(bench, created.name))
    await caller.cancel(created.name)
    done = await caller.ended(created.name)
    assert done.state == State.STATE_CANCELLED
    assert [trial.name for trial in done.progress.trials] == ["original fp32", "original int8"]

    async def removed() -> bool:
        return not any("/stages/" in path for path in await _objects(bench, created.name))

    await until(removed)


async def test_every_trial_is_shown_while_the_search_goes_on_and_after_its_end(bench: Bench) -> None:
    async with bench.service() as caller:
        created = await caller.create("waits_after_a_stage")
        now = await caller.when(created.name, lambda now: len(now.progress.trials) == 2)
        assert (now.progress.elapsed.seconds, now.progress.remaining.seconds) == (60, 30)
        fp32, int8 = now.progress.trials
        assert (fp32.name, fp32.network, fp32.recipe, fp32.engine) == (
            *("original fp32", "original"),
            *("fp32", "onnxruntime"),
        )
        assert (fp32.images_per_second, fp32.accuracy, fp32.size_bytes) == (12.5, 0.97, 4000)
        assert (fp32.state, int8.state, int8.note) == (Trial.STATE_TRIED, Trial.STATE_DROPPED, "It is too slow.")
        assert not int8.HasField("images_per_second")
        assert not int8.HasField("accuracy")
        page = await answer(caller.stub.ListOptimizations(ListOptimizationsRequest()))
        assert page.optimizations[0].progress.message == now.progress.message
        assert list(page.optimizations[0].progress.trials) == []
    async with bench.service() as caller:  # the stage is found: this run goes through
        done = await caller.ended(created.name)
        told = [response.optimization async for response in caller.watch(created.name)]
        assert done.state == State.STATE_SUCCEEDED
        assert [(trial.name, trial.state) for trial in done.progress.trials] == [
            ("original int8", Trial.STATE_DROPPED),
            ("original fp32", Trial.STATE_ACCEPTED),
        ]
        assert told == [done]
        count = caller.app.metrics.registry.get_sample_value
        assert count("gramserve_optimization_trials_total", {"state": "ACCEPTED"}) == 1
        assert count("gramserve_optimization_trials_total", {"state": "TRIED"}) == 0  # was counted by the first run


def _nothing() -> None:
    """Still ours, still wanted."""


@pytest.fixture(params=["folder", "bucket"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "bucket":
        return RemoteObjects(MemoryStore(), "s3://bucket/prefix")
    return LocalObjects(tmp_path / "store")


def _make(root: Path, weights: bytes) -> Path:
    Workspace(root).once("prune", KEY, lambda: Kept({"best": 0.5}, {"a.bin": weights, "b.bin": b""}))
    (folder,) = root.glob("prune-*")
    return folder


def _never() -> Kept:
    raise AssertionError("it was kept")


async def test_a_stage_comes_back_as_it_was(objects: ObjectStore, tmp_path: Path) -> None:
    weights = bytes(range(256)) * 40_000  # more than a chunk
    _make(tmp_path / "here", weights)
    here, there = (Stages(objects, PREFIX, tmp_path / name) for name in ("here", "there"))
    await here.keep(_nothing)
    await here.keep(_nothing)
    await there.bring(_nothing)
    kept = Workspace(tmp_path / "there").once("prune", KEY, _never)
    assert kept == Kept({"best": 0.5}, {"a.bin": weights, "b.bin": b""})
    assert not list((tmp_path / "there").rglob("*.part"))
    await forget(objects, PREFIX)
    assert [info async for info in objects.list("")] == []


async def test_an_unfinished_stage_is_not_kept(objects: ObjectStore, tmp_path: Path) -> None:
    folder = _make(tmp_path / "here", b"weights")
    (folder / DONE).unlink()
    await Stages(objects, PREFIX, tmp_path / "here").keep(_nothing)
    assert [info async for info in objects.list("")] == []


async def _without_the_mark(objects: ObjectStore, paths: list[str]) -> None:
    await objects.delete(next(path for path in paths if path.endswith(STAGE)))


async def _without_a_file(objects: ObjectStore, paths: list[str]) -> None:
    await objects.delete(paths[0])


async def _with_other_bytes(objects: ObjectStore, paths: list[str]) -> None:
    await objects.put(paths[0], b"something else")


async def _with_a_damaged_mark(objects: ObjectStore, paths: list[str]) -> None:
    await objects.put(next(path for path in paths if path.endswith(STAGE)), b"{")


async def _with_a_name_that_leads_away(objects: ObjectStore, paths: list[str]) -> None:
    sha256 = paths[0].rpartition("/")[2]
    record = json.dumps({"files": {DONE: sha256, "../away": sha256}}).encode()
    await objects.put(next(path for path in paths if path.endswith(STAGE)), record)


@pytest.mark.parametrize(
    "damage",
    [_without_the_mark, _without_a_file, _with_other_bytes, _with_a_damaged_mark, _with_a_name_that_leads_away],
)
async def test_a_stage_that_is_not_whole_in_the_store_is_worked_out_anew(
    objects: ObjectStore, tmp_path: Path, damage: Any
) -> None:
    _make(tmp_path / "here", b"weights")
    await Stages(objects, PREFIX, tmp_path / "here").keep(_nothing)
    await damage(objects, [info.path async for info in objects.list(PREFIX)])
    await Stages(objects, PREFIX, tmp_path / "there").bring(_nothing)
    assert not list((tmp_path / "there").glob("**/*"))


async def test_I5_a_zombie_that_copies_the_same_stage_makes_no_mixture(objects: ObjectStore, tmp_path: Path) -> None:
    """Training is not the same to the bit everywhere: the copies of two services differ."""
    for name in ("zombie", "owner"):
        _make(tmp_path / name, name.encode())
    zombie, owner = (Stages(objects, PREFIX, tmp_path / name) for name in ("zombie", "owner"))
    writes = 0

    def lost_after_the_first_write() -> None:
        nonlocal writes
        writes += 1
        if writes > 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        await zombie.keep(lost_after_the_first_write)
    await owner.keep(_nothing)
    await zombie.keep(_nothing)  # it did not even notice
    await Stages(objects, PREFIX, tmp_path / "next").bring(_nothing)
    assert Workspace(tmp_path / "next").once("prune", KEY, _never).files["a.bin"] == b"owner"


async def test_a_stage_that_is_here_is_not_fetched(objects: ObjectStore, tmp_path: Path) -> None:
    _make(tmp_path / "a", b"a")
    _make(tmp_path / "b", b"b")
    await Stages(objects, PREFIX, tmp_path / "a").keep(_nothing)
    await Stages(objects, PREFIX, tmp_path / "b").bring(_nothing)
    assert Workspace(tmp_path / "b").once("prune", KEY, _never).files["a.bin"] == b"b"


async def test_I5_nothing_is_written_once_the_lease_is_lost(objects: ObjectStore, tmp_path: Path) -> None:
    _make(tmp_path / "here", b"weights")

    def lost() -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        await Stages(objects, PREFIX, tmp_path / "here").keep(lost)
    assert [info async for info in objects.list("")] == []
