"""What a child does with its work: fetch, decode, cut, infer and aggregate one slide, or load a model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from gramserve.errors import Reason, SlideFailed, Unavailable
from gramserve.images.decode import use_one_thread
from gramserve.images.field import Field
from gramserve.images.limits import ImageLimits
from gramserve.images.open import ReferenceOpener
from gramserve.log import describe
from gramserve.runtime.preprocess import read_field
from gramserve.store.manifest import Preprocessing
from gramserve.store.objects import open_store
from inference_svc.loaded import LoadedModels, ModelUnavailable
from inference_svc.protocol import ChildSettings, Failed, Finished, FromChild, Loaded, LoadModel, Models, RunSlide, Work


class Performer:
    """Does one piece of work after the other; `send` takes what the worker must hear besides their ends."""

    def __init__(
        self,
        settings: ChildSettings,
        send: Callable[[FromChild], None],
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        use_one_thread()
        objects = open_store(settings.store_url)
        self._limits = ImageLimits(settings.max_image_bytes, settings.max_image_pixels, settings.min_image_px)
        roots = tuple(Path(root) for root in settings.allowed_roots)
        self._opener = ReferenceOpener(objects, allowed_roots=roots, max_bytes=settings.max_image_bytes)
        self._models = LoadedModels(
            objects,
            most=settings.models,
            changed=lambda versions: send(Models(versions)),
            clock=time.monotonic,
        )
        self._clock = clock

    def do(self, work: Work) -> FromChild:
        """The end of `work`; never raises for anything that is the fault of a slide or a model."""
        try:
            if isinstance(work, LoadModel):
                self._models.get(work.version, work.digest)
                return Loaded(work.id)
            return self._run(work)
        except SlideFailed as failed:
            return Failed(work.id, failed.reason, failed.message, failed.retryable)
        except (ModelUnavailable, Unavailable) as failed:
            cause = failed.cause if isinstance(failed, ModelUnavailable) else ""
            return Failed(work.id, failed.reason, failed.message, retryable=True, cause=cause)
        except MemoryError:
            message = "There was not enough memory for this slide."
            return Failed(work.id, Reason.OUT_OF_MEMORY, message, retryable=True)
        except Exception as error:
            message = "A fault in gramserve; the log of the worker says where."
            return Failed(work.id, Reason.INTERNAL, message, retryable=True, detail=describe(error))

    def _run(self, slide: RunSlide) -> Finished:
        began = self._clock()
        artifact = self._models.get(slide.version, slide.digest)
        loaded = self._clock()
        stages = {"load": loaded - began, "fetch": 0.0, "decode": 0.0}
        fields = self._fields(slide, artifact.contract.preprocessing, stages)
        classified = artifact.classify(fields, specimen_type=slide.specimen_type)
        total = self._clock() - loaded
        stages["infer"] = classified.inference_s
        # Cutting and resizing tiles is the larger part of what is left.
        stages["aggregate"] = max(0.0, total - stages["fetch"] - stages["decode"] - stages["infer"])
        return Finished(
            id=slide.id,
            call=classified.call.to_json(),
            tiles=classified.tiles,
            inference_s=classified.inference_s,
            stages=stages,
            engine=artifact.engine.description,
            digest=artifact.digest,
        )

    def _fields(self, slide: RunSlide, contract: Preprocessing, stages: dict[str, float]) -> Iterator[Field]:
        """The pictures one after the other: memory holds one at a time."""
        for image in slide.images:
            began = self._clock()
            data = self._opener.read(slide.laboratory, image)
            fetched = self._clock()
            field = read_field(data, self._limits, contract)
            stages["fetch"] += fetched - began
            stages["decode"] += self._clock() - fetched
            del data
            yield field
