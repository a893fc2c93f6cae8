"""One leased optimization, from its inputs to its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gramserve import log
from gramserve.errors import ArtifactInvalid, InvalidInput, NotFound
from gramserve.metrics import Metrics
from gramserve.queue import Lease, Queue
from optimizer_svc.ending import Ending
from optimizer_svc.hold import Hold, Interrupted, LetGo
from optimizer_svc.job_process import JOB_FILE, RUN_FOLDER
from optimizer_svc.keeping import PASSING, Keeper
from optimizer_svc.messages import Broken, Done, Failed, Going, Message, Stopped
from optimizer_svc.optimizations import Optimizations
from optimizer_svc.process import JOB_COMMAND, JobProcess, job_environment
from optimizer_svc.progress import ProgressWriter
from optimizer_svc.publishing import Publisher
from optimizer_svc.records import EndRecord, FailureRecord, JobRecord, OptimizationRecord, State
from optimizer_svc.sources import Sources
from optimizer_svc.workspace import Workspace

MAX_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class JobSettings:
    """How jobs run.

    In `work_folder`, with `cores` (0: all) at niceness `nice`, by `command`. A step may take `stop_grace_s` seconds to
    stop; after an error that may pass the job waits `retry_s`, doubled each time.
    """

    work_folder: Path
    cores: int = 0
    nice: int = 10
    stop_grace_s: float = 10.0
    retry_s: float = 5.0
    command: Sequence[str] = JOB_COMMAND


class Again(Exception):
    """The job shall run again: it crashed, or met an error that may pass."""

    def __init__(self, *, crash: bool) -> None:
        super().__init__()
        self.crash = crash


class Jobs:
    """Runs leased optimizations, each in a process of its own and each to exactly one end."""

    def __init__(
        self,
        queue: Queue,
        worker: str,
        *,
        optimizations: Optimizations,
        sources: Sources,
        publisher: Publisher,
        ending: Ending,
        metrics: Metrics,
        settings: JobSettings,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue = queue
        self._worker = worker
        self._optimizations = optimizations
        self._sources = sources
        self._publisher = publisher
        self._ending = ending
        self._metrics = metrics
        self._settings = settings
        self._clock = clock
        self._monotonic = monotonic
        self._log = log.get()
        self._hold: Hold | None = None
        self._stopping = False

    def stop(self) -> None:
        """Have the running job stop and give itself back; what it finished is kept for the next run."""
        self._stopping = True
        if self._hold is not None:
            self._hold.let_go(LetGo.STOPPING)

    async def run(self, lease: Lease, leased_at_s: float) -> None:
        """Runs the optimization of `lease`, which was asked for at `leased_at_s` of the monotonic clock."""
        hold = self._hold = Hold(self._queue, self._worker, lease, leased_at_s, self._monotonic)
        if self._stopping:
            hold.let_go(LetGo.STOPPING)
        keeper = asyncio.create_task(hold.keep())
        try:
            await self._run(hold)
        finally:
            self._hold = None
            keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeper

    async def _run(self, hold: Hold) -> None:
        lease, job = hold.lease, self._log.bind(optimization=hold.lease.batch)
        try:
            end = await self._end_of(hold)
            hold.check_owned()
            await self._ending.settle(lease, end)
        except Interrupted:
            job.info("optimization interrupted", reason=hold.reason.name if hold.reason else "")
            if hold.reason is LetGo.STOPPING:
                await self._queue.release([lease], self._worker)
            elif hold.reason is LetGo.CANCELLED:
                await self._ending.settle(lease, EndRecord(State.CANCELLED, self._clock()))
            else:
                self._metrics.count("fenced", transition="renew")
        except Again as again:
            await self._queue.fail(
                lease, self._worker, crash=again.crash, delay_s=0.0 if again.crash else self._delay_s(lease)
            )
        except PASSING as error:
            job.warning("optimization put back", reason=error.reason.value)
            await self._queue.fail(lease, self._worker, crash=False, delay_s=self._delay_s(lease))

    def _delay_s(self, lease: Lease) -> float:
        return self._settings.retry_s * float(min(2**lease.attempts, 64))

    async def _end_of(self, hold: Hold) -> EndRecord:
        """How the optimization ends; raises Interrupted, Again and what the store and the queue raise."""
        optimization = hold.lease.batch
        if (end := await self._optimizations.end(optimization)) is not None:  # an earlier run got that far
            return end
        if await self._optimizations.cancel_asked(optimization):
            return EndRecord(State.CANCELLED, self._clock())
        workspace = self._settings.work_folder / optimization
        try:
            record = await self._optimizations.get(optimization)
            last = await self._work(record, workspace, hold)
            return await self._judge(record, workspace, last, hold)
        except (InvalidInput, NotFound, ArtifactInvalid) as error:
            return EndRecord(State.FAILED, self._clock(), failure=FailureRecord.of(error))
        except (*PASSING, Interrupted, Again):
            raise
        except Exception as error:
            self._log.error("optimization failed unexpectedly", optimization=optimization, error=log.describe(error))
            return self._again_or_failed(hold.lease, crash=False)

    async def _work(self, record: OptimizationRecord, workspace: Path, hold: Hold) -> Message | None:
        """The last thing that the job process said."""
        writer = ProgressWriter(self._optimizations, record.optimization, self._metrics, self._clock)
        keeper = Keeper(writer, self._optimizations.stages(record.optimization, workspace / RUN_FOLDER), hold)
        budget_s = record.budget_minutes * 60
        await keeper.take(Going("INGEST", "Fetching the checkpoint and the data", 0.0, 0.0, budget_s))
        await self._prepare(record, workspace, hold)
        await keeper.bring()
        await asyncio.to_thread(_carry_on, workspace / RUN_FOLDER, writer.elapsed_s)
        environment = job_environment(os.environ)
        process = await JobProcess.start(self._settings.command, workspace, environment)
        beside = [asyncio.create_task(self._guard(process, hold)), asyncio.create_task(keeper.keep_on())]
        last: Message | None = None
        try:
            async for message in process.messages():
                last = message
                if isinstance(message, Going):
                    await keeper.take(message)
        finally:
            process.kill()
            how = await process.ended()
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            if not isinstance(last, Done | Failed | Stopped | Broken):
                self._log.warning("the job process died", optimization=record.optimization, cause=how)
        await keeper.last(ended=isinstance(last, Done | Failed), within_s=self._settings.stop_grace_s)
        return last

    async def _prepare(self, record: OptimizationRecord, workspace: Path, hold: Hold) -> None:
        inputs = workspace / "inputs"
        await asyncio.to_thread(workspace.mkdir, mode=0o700, parents=True, exist_ok=True)
        await asyncio.to_thread(shutil.rmtree, workspace / "result", ignore_errors=True)
        bring = self._sources.bring
        checkpoint = await bring(record.checkpoint, inputs, folder_allowed=False, still_wanted=hold.check)
        data = await bring(record.data, inputs, folder_allowed=True, still_wanted=hold.check)
        job = JobRecord(
            checkpoint=str(checkpoint),
            data=str(data),
            architecture=record.architecture,
            labels=record.labels,
            model=record.model,
            budget_minutes=record.budget_minutes,
            margin=record.margin,
            allow_unproved=record.allow_unproved,
            keep_macs=record.keep_macs,
            seed=record.seed,
            cores=self._settings.cores,
            nice=self._settings.nice,
            input_px=record.input_px,
            recall_margin=record.recall_margin,
            importance=record.importance,
            scope=record.scope,
            recipes=record.recipes,
            engines=record.engines,
            review_risk=record.review_risk,
            mean=record.mean,
            std=record.std,
            quantization_aware=record.quantization_aware,
            min_assessed_tiles=record.min_assessed_tiles,
            mixed_usual_in=record.mixed_usual_in,
        )
        await asyncio.to_thread((workspace / JOB_FILE).write_bytes, job.to_json())
        hold.check()

    async def _guard(self, process: JobProcess, hold: Hold) -> None:
        """Ends the process when the work shall not go on: at its next step, or at once when the lease is lost."""
        await hold.interrupted.wait()
        process.ask_to_stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.stop_grace_s):
                await hold.lost.wait()
        process.kill()

    async def _judge(self, record: OptimizationRecord, workspace: Path, last: Message | None, hold: Hold) -> EndRecord:
        hold.check_owned()
        match last:
            case Done():  # also when somebody asks to cancel now: what is finished is not thrown away
                return await self._publisher.publish(record, workspace, self._clock())
            case Failed(failure):
                has_report = await self._publisher.keep_report(record, workspace)
                return EndRecord(State.FAILED, self._clock(), failure=failure, has_report=has_report)
            case Broken(detail):
                self._log.error("job broken", optimization=record.optimization, error=detail)
        hold.check()
        return self._again_or_failed(hold.lease, crash=not isinstance(last, Broken | Stopped))

    def _again_or_failed(self, lease: Lease, *, crash: bool) -> EndRecord:
        """Raises Again while the optimization has another try."""
        if crash and lease.crashes + 1 < self._queue.max_crashes:
            raise Again(crash=True)
        if not crash and lease.attempts + 1 < MAX_ATTEMPTS:
            raise Again(crash=False)
        return self._ending.given_up(crashed=crash)


def _carry_on(run: Path, elapsed_s: float) -> None:
    """Has the search count the time that runs on other machines took."""
    kept = Workspace(run)
    if elapsed_s > kept.elapsed_s:
        kept.keep_elapsed(elapsed_s)
