"""The process that runs one optimization: `python -m optimizer_svc.job_process WORKSPACE`; only here torch is loaded.

It reads WORKSPACE/job.json, says on standard output how far it is (`optimizer_svc.messages`) and leaves the artifact in
WORKSPACE/result. A line on standard input asks it to stop at its next step; the end of standard input means that the
service is gone: then it dies at once, with everything it started.
"""

from __future__ import annotations

import math
import os
import resource
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from gramserve import log
from gramserve.errors import GramserveError
from gramserve.sandbox import confine
from gramserve.store.manifest import Label
from optimizer_svc.archive import extract_archive
from optimizer_svc.messages import Broken, Done, Failed, Going, Message, Stopped, pack
from optimizer_svc.records import FailureRecord, JobRecord
from optimizer_svc.spec import OptimizationResult, OptimizationSpec, Progress, TrialRow
from optimizer_svc.spec import Stopped as StoppedByRequest

JOB_FILE = "job.json"
RESULT_FOLDER = "result"
RUN_FOLDER = "run"
MANIFEST_DRAFT = "draft.json"


def main(workspace: Path) -> None:
    """Run the job of `workspace` and say how it ended."""
    channel = _take_output()
    # It opens checkpoints and images that others made: no network, no programs, nothing written but its own folder.
    confine(writable=[workspace, Path(tempfile.gettempdir())], signal_group=True)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core would be full of pixels
    lock, stop = threading.Lock(), threading.Event()

    def say(message: Message) -> None:
        with lock:
            channel.write(pack(message))
            channel.flush()

    threading.Thread(target=_obey, args=(stop,), daemon=True).start()
    try:
        job = JobRecord.from_json((workspace / JOB_FILE).read_bytes())
        os.nice(job.nice)
        _keep(_run(job, workspace, say, stop.is_set), workspace / RESULT_FOLDER)
    except StoppedByRequest:
        say(Stopped())
    except GramserveError as error:
        say(Failed(FailureRecord.of(error)))
    except Exception as error:
        say(Broken(log.describe(error)))
    else:
        say(Done())


def _run(
    job: JobRecord, workspace: Path, say: Callable[[Message], None], stop: Callable[[], bool]
) -> OptimizationResult:
    say(Going("INGEST", "Getting ready", 0.0, 0.0, job.budget_minutes * 60))
    data = _data(Path(job.data), workspace)
    if job.cores:  # before any library counts them
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-job.cores :])
    from optimizer_svc.optimize import run_optimization  # noqa: PLC0415 - it loads torch, the service must not

    spec = OptimizationSpec(
        checkpoint=Path(job.checkpoint),
        architecture=job.architecture,
        labels=tuple(Label.model_validate(label) for label in job.labels),
        data=data,
        model=job.model,
        budget_minutes=job.budget_minutes,
        margin=job.margin,
        allow_unproved=job.allow_unproved,
        prune_macs=job.keep_macs or None,
        seed=job.seed,
        input_px=job.input_px or None,
        recall_margin=job.recall_margin,
        importance=job.importance,
        scope=job.scope,
        recipes=job.recipes,
        engines=job.engines,
        review_risk=job.review_risk,
        mean=_channels(job.mean),
        std=_channels(job.std),
        quantization_aware=job.quantization_aware,
        min_assessed_tiles=job.min_assessed_tiles,
        mixed_usual_in=job.mixed_usual_in,
    )

    def progress(now: Progress) -> None:
        trials = tuple(map(_sayable, now.trials))
        say(Going(now.stage.value, now.message, now.fraction, now.elapsed_s, now.remaining_s, trials))

    return run_optimization(spec, workspace / RUN_FOLDER, progress, should_stop=stop)


def _channels(values: tuple[float, ...]) -> tuple[float, float, float] | None:
    return (values[0], values[1], values[2]) if values else None


def _sayable(row: TrialRow) -> TrialRow:
    """Without what JSON has no word for: a speed or accuracy that is no number was not measured."""
    return replace(row, images_per_s=_finite(row.images_per_s), accuracy=_finite(row.accuracy))


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _data(data: Path, workspace: Path) -> Path:
    """The data folder; an archive is extracted beside the job, anew unless it was extracted completely before."""
    if data.is_dir():
        return data
    into, complete = workspace / "data", workspace / "data.complete"
    if complete.exists():
        return into / complete.read_text()
    shutil.rmtree(into, ignore_errors=True)
    folder = extract_archive(data, into)
    complete.write_text(str(folder.relative_to(into)))
    return folder


def _keep(result: OptimizationResult, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for name, data in result.files.items():
        (folder / name).write_bytes(data)
    (folder / MANIFEST_DRAFT).write_bytes(result.manifest.model_dump_json().encode())


def _take_output() -> BinaryIO:
    """Standard output for messages alone: what libraries print could tell of patients, and goes nowhere."""
    channel = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    return channel


def _obey(stop: threading.Event) -> None:
    """Set `stop` for every line; when the service is gone, end this process and all that it started."""
    while os.read(0, 1):
        stop.set()
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
