"""What a child does with its work: slides and parts of them, shadows, inference requests, loading of models."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from gramserve.errors import Exhausted, InvalidInput, Reason, SlideFailed, Unavailable
from gramserve.images.decode import use_one_thread
from gramserve.images.limits import ImageLimits
from gramserve.images.open import ByteSource, ReferenceOpener
from gramserve.log import describe
from gramserve.runtime.artifact import LoadedArtifact
from gramserve.runtime.choose import EngineChooser
from gramserve.runtime.tally import Reference
from gramserve.store.objects import open_store
from gramserve.store.signing import go_on_trusting
from inference_svc.fetching import Fetcher
from inference_svc.footprint import ProcessMemory
from inference_svc.infer import infer
from inference_svc.loaded import LoadedModels, ModelUnavailable
from inference_svc.pictures import Pictures
from inference_svc.protocol import (
    ChildSettings,
    Combine,
    Divide,
    EngineChosen,
    Failed,
    Finished,
    FromChild,
    Infer,
    Inferred,
    Loaded,
    LoadModel,
    Models,
    Part,
    RunShadow,
    RunSlide,
    VersionLoaded,
    Work,
)
from inference_svc.whole import TooLargeForOne, WholeSlides, combine, finished


class Performer:
    """Does one piece of work after the other; `send` takes what the worker must hear besides their ends.

    `between` is called before each batch of a slide's tiles, and may call `do`; the slide's times leave that out.
    `waiting` says whether the worker has sent more; a shadow gives way to it. `objects` are those of the store, where
    this process cannot open it by itself.
    """

    def __init__(
        self,
        settings: ChildSettings,
        send: Callable[[FromChild], None],
        objects: ByteSource | None = None,
        *,
        between: Callable[[], None] = lambda: None,
        waiting: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        use_one_thread()
        self._waiting = waiting
        objects = objects or open_store(settings.store_url)
        self._limits = ImageLimits(settings.max_image_bytes, settings.max_image_pixels, settings.min_image_px)
        roots = tuple(Path(root) for root in settings.allowed_roots)
        opener = ReferenceOpener(
            objects,
            allowed_roots=roots,
            max_bytes=settings.max_image_bytes,
            max_slide_bytes=settings.max_slide_bytes,
        )
        self._fetcher = Fetcher(opener, objects)
        self._pictures = Pictures(opener, self._limits, clock=clock)
        self._whole = WholeSlides(self._pictures, shard_tiles=settings.shard_tiles)
        self._models = LoadedModels(
            objects,
            most=settings.models,
            most_bytes=settings.models_bytes,
            memory=ProcessMemory(),
            changed=lambda versions, size: send(Models(versions, size)),
            clock=time.monotonic,
            chooser=EngineChooser(settings.engine),
            trusted=go_on_trusting(settings.trusted_keys_file, settings.trusted_keys.encode())
            if settings.trusted_keys_file
            else None,
            chosen=lambda version, choice: send(
                EngineChosen(version, choice.settings.name, choice.tile_s, choice.passed_over)
            ),
            loaded=lambda version, artifact, seconds: send(_told(version, artifact, seconds)),
        )
        self._clock = clock
        self._between = between
        self._elsewhere_s = 0.0

    def expect(self, slide: RunSlide) -> None:
        """Hear that `slide` is likely to come next: its bytes may be read meanwhile."""
        self._fetcher.expect(slide)

    def do(self, work: Work) -> FromChild:  # noqa: PLR0911 - one line for each way to end
        """The end of `work`; never raises for anything that is the fault of a slide or a model."""
        try:
            if isinstance(work, LoadModel):
                self._models.get(work.version, work.digest)
                return Loaded(work.id)
            with self._models.running(work.version, work.digest):
                return self._do(work)
        except InvalidInput as refused:
            return Failed(work.id, refused.reason, refused.message, retryable=False)
        except SlideFailed as failed:
            return Failed(work.id, failed.reason, failed.message, failed.retryable)
        except (ModelUnavailable, Unavailable, Exhausted) as failed:
            cause = failed.cause if isinstance(failed, ModelUnavailable) else ""
            return Failed(work.id, failed.reason, failed.message, retryable=True, cause=cause)
        except MemoryError:
            message = "There was not enough memory for this slide."
            return Failed(work.id, Reason.OUT_OF_MEMORY, message, retryable=True)
        except Exception as error:
            message = "A fault in gramserve; the log of the worker says where."
            return Failed(work.id, Reason.INTERNAL, message, retryable=True, detail=describe(error))

    def _do(self, work: RunSlide | Combine | RunShadow | Infer) -> FromChild:
        match work:
            case Infer():
                return self._infer(work)
            case RunShadow():
                return self._run_shadow(work)
            case Combine():
                return combine(work, self._models.get(work.version, work.digest))
            case RunSlide() if work.shards:
                return self._read_part(work)
            case RunSlide():
                return self._run(work)

    def _read_part(self, work: RunSlide) -> Part:
        return self._whole.read(work, self._models.get(work.version, work.digest), between=self._interrupt)

    def _run(self, slide: RunSlide) -> Finished | Failed | Divide:
        self._whole.close()
        if (late := _late(slide)) is not None:
            return late
        began = self._now()
        if (earlier := self._fetcher.earlier(slide)) is not None:
            return Finished(
                id=slide.id,
                call=earlier.call or {},
                tiles=0,
                inference_s=0.0,
                stages={"fetch": self._now() - began},
                engine=earlier.engine,
                digest=slide.digest,
                reused=True,
            )
        looked = self._now()
        artifact = self._models.get(slide.version, slide.digest)
        loaded = self._now()
        stages = {"load": loaded - looked, "fetch": looked - began, "decode": 0.0}
        contract = artifact.contract.preprocessing
        pictures = self._pictures.of(
            slide.laboratory,
            slide.images,
            contract,
            stages,
            fetched=self._fetcher.images(slide),
            opened=self._whole.dividing(slide, contract),
        )
        try:
            readings = artifact.read(pictures, between=self._interrupt)
        except TooLargeForOne as large:
            return large.divide(slide.id)
        read = self._now()
        judged = artifact.judge(readings, specimen_type=slide.specimen_type)
        stages["aggregate"] = self._now() - read
        stages["infer"] = readings.inference_s
        in_images = stages["fetch"] - (looked - began) + stages["decode"]
        stages["tile"] = max(0.0, read - loaded - in_images - stages["infer"])
        return finished(slide.id, artifact, readings, judged, stages)

    def _interrupt(self) -> None:
        began = self._clock()
        self._between()
        self._elsewhere_s += self._clock() - began

    def _now(self) -> float:
        """Seconds without those spent on other work in between."""
        return self._clock() - self._elsewhere_s

    def _run_shadow(self, slide: RunShadow) -> Finished:
        self._give_way()
        artifact = self._models.get(slide.version, slide.digest, spare=True)
        stages = {"fetch": 0.0, "decode": 0.0}
        pictures = self._pictures.of(slide.laboratory, slide.images, artifact.contract.preprocessing, stages)
        readings = artifact.read(pictures, between=self._give_way)
        judged = artifact.judge(readings, specimen_type=slide.specimen_type)
        return finished(slide.id, artifact, readings, judged, stages)

    def _give_way(self) -> None:
        """Raises SlideFailed (CANCELLED) when other work waits: a shadow holds up nobody for longer than one batch."""
        if self._waiting():
            raise SlideFailed(Reason.CANCELLED, "Other work came before the shadow.", retryable=True)

    def _infer(self, work: Infer) -> Inferred | Failed:
        if (late := _late(work)) is not None:
            return late
        return infer(work, self._models.get(work.version, work.digest), self._limits, clock=self._clock)


def _told(version: str, artifact: LoadedArtifact, seconds: dict[str, float]) -> VersionLoaded:
    """What the worker hears of a version that was loaded."""
    labels = artifact.manifest.labels
    reference = Reference.of(artifact.manifest.evaluation, labels)
    return VersionLoaded(
        version,
        artifact.engine.description,
        seconds,
        tuple(label.name for label in labels),
        tuple(label.name for label in labels if label.kind == "organism"),
        dict(reference.labels),
        dict(reference.bands),
    )


def _late(work: RunSlide | Infer) -> Failed | None:
    """The end of work whose deadline passed before it began; None when there is time."""
    if work.deadline_s is None or time.monotonic() <= work.deadline_s:
        return None
    return Failed(work.id, Reason.DEADLINE_PASSED, "The deadline passed before it began.", retryable=False)
