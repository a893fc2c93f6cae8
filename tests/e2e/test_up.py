"""The whole stack from outside: started, used, wounded, stopped."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest

from gramserve.client import GramserveClient, Patience
from gramserve.queue import connect
from gramserve.samples import LABELS
from gramserve.store.objects import open_store
from gramserve.v1.slide_batch_pb2 import SlideBatch
from gramserve.v1.slide_batch_service_pb2 import WatchSlideBatchResponse
from gramserve.v1.slide_pb2 import Slide
from tests.artifacts import coloured_file
from tests.e2e.running import GRAMSERVE, Up, running
from tests.waiting import HANGS_S, until

SLIDES = 60
PATIENCE = Patience(total_s=60.0, longest_wait_s=0.5)
SLOWLY = {"GRAMSERVE_TEST_CHILD_HOOK": "tests.e2e.hooks:linger"}


async def submit(client: GramserveClient, count: int = SLIDES) -> SlideBatch:
    """A batch of `count` slides, in turn of each label."""
    slides = [
        await client.upload_slide(f"s{number:03d}", [coloured_file(LABELS[number % len(LABELS)])])
        for number in range(count)
    ]
    return await client.create_batch(slides, model="models/gram")


async def every_slide_has_one_result(client: GramserveClient, up: Up, batch: SlideBatch, count: int = SLIDES) -> None:
    """I1 and I2: each slide succeeded, with the call of its colour and one outcome in the store."""
    final = await client.get_batch(batch.name)
    assert final.state == SlideBatch.STATE_SUCCEEDED
    assert final.completion_stats.succeeded_count == final.completion_stats.total_count == count
    slides = [slide async for slide in client.results(batch.name)]
    assert [slide.index for slide in slides] == list(range(count))
    for slide in slides:
        truth = LABELS[slide.index % len(LABELS)]
        assert [finding.label for finding in slide.call.findings] == ([] if truth == "BACKGROUND" else [truth])
    place = f"batches/default/{batch.name.rpartition('/')[2]}/results/0"
    outcomes = [entry.path async for entry in open_store(up.store).list(place)]
    assert len(outcomes) == count


def told_without_gap_or_repeat(events: list[WatchSlideBatchResponse], count: int = SLIDES) -> None:
    """Every slide's success was told exactly once, sequences grow, and the end came last."""
    done = [event.slide.index for event in events if event.slide.state == Slide.STATE_SUCCEEDED]
    assert sorted(done) == list(range(count))
    sequences = [event.sequence for event in events]
    assert sequences == sorted(sequences)
    assert events[-1].slide_batch.state == SlideBatch.STATE_SUCCEEDED


async def keep(events: AsyncIterator[WatchSlideBatchResponse], into: list[WatchSlideBatchResponse]) -> None:
    """Appends events as they come."""
    async for event in events:
        into.append(event)  # noqa: PERF401  others look at the list meanwhile


async def flush(up: Up) -> None:
    """FLUSHALL."""
    redis = connect(f"unix://{quote(str(up.folder / 'redis' / 'redis.sock'))}")
    await redis.flushall()
    await redis.aclose()


WOUNDS: dict[str, Callable[[Up], Awaitable[object]]] = {
    "kill -9 of the gateway": lambda up: up.kill("-m gateway"),
    "kill -9 of a worker": lambda up: up.kill("-m inference_svc"),
    "kill -9 of a child": lambda up: up.kill("inference_svc.child"),
    "kill -9 of Redis": lambda up: up.kill("redis.sock"),
    "FLUSHALL": flush,
}


@pytest.mark.slow
@pytest.mark.parametrize("wound", WOUNDS)
async def test_I1_I2_I8_every_slide_ends_with_one_result_and_is_told_once_after(
    wound: str, tmp_path: Path, store: str
) -> None:
    async with (
        running(tmp_path / "up", "--workers", "2", store=store, environment=SLOWLY) as up,
        GramserveClient(up.address("gateway"), patience=PATIENCE) as client,
    ):
        batch = await submit(client)
        events: list[WatchSlideBatchResponse] = []
        watching = asyncio.create_task(keep(client.watch_batch(batch.name), events))
        await until(lambda: sum(event.slide.state == Slide.STATE_SUCCEEDED for event in events) >= 5)
        await WOUNDS[wound](up)
        await asyncio.wait_for(watching, HANGS_S)
        told_without_gap_or_repeat(events)
        await every_slide_has_one_result(client, up, batch)


async def test_slides_go_in_and_calls_come_out_by_the_command_line(tmp_path: Path, store: str) -> None:
    (tmp_path / "night" / "s1").mkdir(parents=True)
    (tmp_path / "night" / "s2").mkdir()
    for number in range(3):
        (tmp_path / "night" / "s1" / f"{number}.png").write_bytes(coloured_file("GPR"))
    (tmp_path / "night" / "s2" / "0.tif").write_bytes(coloured_file("BACKGROUND", extension="tif"))
    (tmp_path / "broken.jpg").write_text("not a picture")
    async with running(tmp_path / "up", store=store) as up:
        gateway = ("--gateway", up.address("gateway"))

        async def command(*words: str) -> tuple[int, str]:
            done = await asyncio.to_thread(
                subprocess.run,
                [GRAMSERVE, *words, *gateway],
                capture_output=True,
                text=True,
                timeout=HANGS_S,
                check=False,
            )
            return done.returncode, done.stdout + done.stderr

        out = tmp_path / "calls.jsonl"
        night, broken = str(tmp_path / "night"), str(tmp_path / "broken.jpg")
        code, said = await command("submit", night, broken, "--model", "gram", "--wait", "--output", str(out))
        assert code == 1, said
        assert "partially succeeded" in said
        assert "failed: UNSUPPORTED_FORMAT" in said
        lines = [json.loads(line) for line in out.read_text().splitlines()]
        assert [line["slideId"] for line in lines] == ["s1", "s2", "broken"]
        assert lines[0]["call"]["findings"][0]["label"] == "GPR"

        batch = said.split(":")[0]
        assert (await command("watch", batch))[0] == 1
        code, said = await command("results", batch.rpartition("/")[2])
        assert code == 0
        assert "no organism seen" in said
        code, said = await command("retry", batch, "--wait")
        assert (code, "1 failed" in said) == (1, True), said
        code, said = await command("cancel", batch)
        assert (code, "BATCH_TERMINAL" in said) == (2, True), said
        code, said = await command("submit", night, "--model", "gram", "--wait", "--stat", "--due", "23:59")
        assert code == 0, said
        code, said = await command("submit", night, "--model", "unknown")
        assert (code, "UNKNOWN_MODEL" in said, said.count("\n")) == (2, True, 1), said

        code, said = await command("models", "list")
        assert (code, "models/gram" in said, "production: 1" in said) == (0, True, True), said
        assert "nearest_colour" in (await command("models", "show", "gram"))[1]
        assert "UNKNOWN_MODEL_VERSION" in (await command("models", "promote", "gram", "7"))[1]
        assert "NOTHING_TO_ROLL_BACK" in (await command("models", "rollback", "gram"))[1]


@pytest.mark.slow
async def test_a_second_up_on_one_folder_is_refused_and_SIGTERM_leaves_nothing(tmp_path: Path, store: str) -> None:
    async with running(tmp_path / "up", store=store) as up:
        second = await asyncio.to_thread(
            subprocess.run, [GRAMSERVE, "up", "--data-dir", str(up.folder)], capture_output=True, text=True, check=False
        )
        assert second.returncode == 2
        assert f"process {up.process.pid}" in second.stderr
        assert second.stderr.count("\n") == 1
        processes = up.descendants()
        assert await up.stop() == 0
        assert not [process for process in processes if process.is_running()]
        assert (up.folder / "redis").stat().st_mode & 0o077 == 0


async def test_a_service_that_cannot_start_ends_all_with_one_line(tmp_path: Path) -> None:
    up = Up(tmp_path / "up", "--no-optimizer", environment={"GRAMSERVE_GATEWAY_LISTENING": "x"})
    assert await asyncio.to_thread(up.process.wait, 60) == 2
    assert "gateway did not start: there is no setting GRAMSERVE_GATEWAY_LISTENING" in up.said.splitlines()[-1]


@pytest.mark.slow
async def test_I1_kill_9_of_up_leaves_no_orphans_and_the_next_up_finishes_the_batch(tmp_path: Path, store: str) -> None:
    async with running(tmp_path / "up", store=store, environment=SLOWLY) as up:
        async with GramserveClient(up.address("gateway"), patience=PATIENCE) as client:
            batch = await submit(client)
        processes = up.descendants()
        assert len(processes) >= 4
        up.process.kill()
        up.process.wait()
        _, alive = await asyncio.to_thread(psutil.wait_procs, processes, 20)
        assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
    again = Up(tmp_path / "up", "--no-optimizer", store=store)
    try:
        await again.ready()
        async with GramserveClient(again.address("gateway"), patience=PATIENCE) as client:
            await client.wait_for_batch(batch.name)
            await every_slide_has_one_result(client, again, batch)
    finally:
        await again.stop()


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.2", "127.0.0.2"), ("::1", "[::1]")])
async def test_it_says_where_it_listens_whatever_the_folder_is_called(tmp_path: Path, host: str, shown: str) -> None:
    async with running(tmp_path / "a {night}", "--host", host, "--children", "1") as up:
        address = up.address("gateway")
        assert address.rpartition(":")[0] == shown
        async with GramserveClient(address, patience=PATIENCE) as client:
            assert [model.name async for model in client.list_models()] == ["models/gram"]
