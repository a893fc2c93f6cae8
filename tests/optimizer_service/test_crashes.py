"""Deaths: of the job, of the service, of the lease, of Redis. Every optimization still ends exactly once."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gramserve.errors import Reason
from gramserve.queue import Queue, connect
from gramserve.rpc.channel import open_channel
from gramserve.rpc.status import from_status
from gramserve.store.registry import Registry
from optimizer_svc.app import LANE
from tests.optimizer_service.conftest import Bench, Caller, State, gone, id_of
from tests.waiting import HANGS_S, until


async def test_I7_a_job_that_crashes_three_times_is_given_up_and_the_next_one_runs(
    bench: Bench, caller: Caller
) -> None:
    crashing, fine = await caller.create("crashes"), await caller.create("finishes")
    done = await caller.ended(crashing.name)
    assert done.state == State.STATE_FAILED
    assert from_status(done.error).reason is Reason.WORKER_CRASHED
    assert (await caller.ended(fine.name)).state == State.STATE_SUCCEEDED


async def test_an_unexpected_error_is_INTERNAL_in_the_end_and_does_not_show_its_message(bench: Bench) -> None:
    async with bench.service(retry_s=0.01) as caller:
        created = await caller.create("breaks")
        done = await caller.ended(created.name)
    assert from_status(done.error).reason is Reason.INTERNAL
    assert "Jane" not in str(done)


class Service:
    """A service in a process of its own, to be killed."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self.port = port

    @asynccontextmanager
    async def caller(self) -> AsyncIterator[Caller]:
        """A client of it."""
        async with open_channel(f"127.0.0.1:{self.port}") as channel:
            yield Caller(None, channel)  # type: ignore[arg-type]

    async def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        await self.process.wait()


@asynccontextmanager
async def service_process(bench: Bench) -> AsyncIterator[Service]:
    """A running service that can be killed."""
    settings = bench.settings()
    code = (
        "import asyncio, sys, json\n"
        "from optimizer_svc.__main__ import serve\n"
        "from optimizer_svc.app import App\n"
        "from optimizer_svc.settings import OptimizerSettings\n"
        "from gramserve import log\n"
        "from tests.optimizer_service.conftest import SCRIPTED\n"
        "log.configure('optimizer')\n"
        "asyncio.run(serve(App(OptimizerSettings(**json.loads(sys.argv[1])), job_command=SCRIPTED)))\n"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, json.dumps(settings.model_dump())), stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    try:
        port = 0
        while not port:
            line = await asyncio.wait_for(process.stderr.readline(), HANGS_S)
            entry = json.loads(line)
            port = entry.get("port", 0) if entry["event"] == "ready" else 0
        yield Service(process, port)
    finally:
        if process.returncode is None:
            process.terminate()
            assert await asyncio.wait_for(process.wait(), HANGS_S) == 0
        await process.stderr.read()


async def test_I2_after_kill_9_of_the_service_the_job_runs_again_and_ends_once(bench: Bench) -> None:
    async with service_process(bench) as service:
        async with open_channel(f"127.0.0.1:{service.port}") as channel:
            caller = Caller(None, channel)  # type: ignore[arg-type]
            created = await caller.create("waits_once")
            started = await caller.started(created.name)
        pid = int((bench.folder / "work" / id_of(created.name) / "run" / "pid").read_text())
        await service.kill()
    await gone(pid)  # the job dies with its service
    async with bench.service() as caller:
        done = await caller.ended(created.name)
    assert done.state == State.STATE_SUCCEEDED
    assert done.start_time == started.start_time  # of the first run
    assert await bench.store.folders("models/gram/versions") == ["1"]


async def test_I14_after_SIGTERM_the_job_is_handed_over_at_once(bench: Bench) -> None:
    async with service_process(bench) as service:
        async with open_channel(f"127.0.0.1:{service.port}") as channel:
            caller = Caller(None, channel)  # type: ignore[arg-type]
            created = await caller.create("waits_once")
            await caller.started(created.name)
        service.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(service.process.wait(), HANGS_S) == 0
    async with bench.queue() as queue:
        assert (await queue.depth()).ready_routine == 1


async def test_I2_a_version_that_was_published_before_a_death_is_found_and_not_repeated(bench: Bench) -> None:
    """The service died after the registry had the artifact and before the outcome was written."""
    async with bench.service() as caller:
        request = await caller.request()
        request.optimization.settings.promote = True
        created = await caller.stub.CreateOptimization(request)
        first = await caller.ended(created.name)
    await bench.store.delete(f"{created.name}/outcome.json")
    redis = connect(bench.redis.url)
    await redis.flushall()
    await redis.aclose()
    async with bench.service() as caller:
        second = await caller.ended(created.name)
    assert second.model_version == first.model_version
    assert await bench.store.folders("models/gram/versions") == ["1"]
    alias = await Registry(bench.store).alias("gram", "production")
    assert alias is not None
    assert alias.history == ()


async def test_I1_an_optimization_that_was_accepted_survives_FLUSHALL(bench: Bench, caller: Caller) -> None:
    running, waiting = await caller.create("waits_once"), await caller.create("finishes")
    await caller.started(running.name)
    redis = connect(bench.redis.url)
    await redis.flushall()
    await redis.aclose()
    assert (await caller.ended(waiting.name)).state == State.STATE_SUCCEEDED
    assert (await caller.ended(running.name)).state == State.STATE_SUCCEEDED
    assert sorted(await bench.store.folders("models/gram/versions")) == ["1", "2"]


async def test_I5_a_service_that_lost_its_lease_kills_the_job_and_writes_nothing(bench: Bench, caller: Caller) -> None:
    created = await caller.create("does_not_listen")
    await caller.started(created.name)
    optimization = id_of(created.name)
    pid = int((bench.folder / "work" / optimization / "run" / "pid").read_text())
    redis = connect(bench.redis.url)
    await redis.zadd(f"{{gs:{LANE}}}:leased", {f"{optimization}/000000": 1}, xx=True)  # as if its time were over
    other = Queue(redis, LANE, lease_s=600.0)
    await other.reclaim("other")
    (lease,) = await other.lease("other", 1, idle=True)
    await gone(pid)
    assert lease.crashes == 1
    await until(lambda: caller.app.metrics.registry.get_sample_value("gramserve_fenced_total", {"transition": "renew"}))
    assert (await caller.get(created.name)).state == State.STATE_RUNNING
    assert await bench.store.size(f"{created.name}/outcome.json") is None
    assert await other.release([lease], "other") == 1
    await other.aclose()
    await redis.aclose()
    await caller.started(created.name)
    await caller.cancel(created.name)


async def test_I4_a_job_that_takes_longer_than_its_lease_keeps_it(bench: Bench) -> None:
    async with bench.service(lease_s=1.5) as caller:
        created = await caller.create("waits")
        await caller.started(created.name)
        async with bench.queue() as queue:
            redis = connect(bench.redis.url)
            first = await redis.zscore(f"{{gs:{LANE}}}:leased", f"{id_of(created.name)}/000000")
            assert first is not None

            async def renewed_far_beyond() -> bool:
                now = await redis.zscore(f"{{gs:{LANE}}}:leased", f"{id_of(created.name)}/000000")
                return now is not None and now > first + 2 * 1500

            await until(renewed_far_beyond)
            assert (await queue.reclaim("other")).requeued == 0
            await redis.aclose()
        assert bench.runs(id_of(created.name)) == 1
        await caller.cancel(created.name)


async def test_I8_a_queue_entry_that_was_lost_is_put_back(bench: Bench) -> None:
    async with bench.service() as caller:
        blocking, created = await caller.create("waits"), await caller.create("finishes")
        await caller.started(blocking.name)
        redis = connect(bench.redis.url)
        assert await redis.zrem(f"{{gs:{LANE}}}:ready", f"{id_of(created.name)}/000000") == 1
        await redis.aclose()
        async with bench.queue() as queue:

            async def back() -> bool:
                return (await queue.depth()).ready_routine == 1

            await until(back)
        await caller.cancel(blocking.name)
        assert (await caller.ended(created.name)).state == State.STATE_SUCCEEDED
