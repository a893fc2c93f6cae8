"""The chosen candidate as an artifact: model, golden vectors and the contract to run them under."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from gramserve.errors import ArtifactInvalid, SlideFailed
from gramserve.images.decode import Reduction
from gramserve.runtime.engines import INPUT, OUTPUT, installed_engines, open_engine
from gramserve.runtime.golden import make_golden, run_in_batches
from gramserve.samples import LABELS, Sample
from gramserve.store.manifest import Aggregation, ArtifactDraft, Calibration, EngineSettings, Preprocessing, Source
from optimizer_svc.candidates import FP32, Candidate
from optimizer_svc.conformal import Review
from optimizer_svc.environment import cpu, packages
from optimizer_svc.ingest import Ingested
from optimizer_svc.networks import Network
from optimizer_svc.slide_rules import MAX_SCALE, MAX_UNFIT, TILE_PROBABILITY, SlideRules
from optimizer_svc.spec import OptimizationSpec

GOLDEN_SEED = 20_261
GOLDEN_EACH = 2
# How far the logits of another CPU or engine may be off, as a share of the largest golden logit: at least, and at most.
INT8_TOLERANCE, FP32_TOLERANCE, MAX_TOLERANCE = 0.05, 1e-3, 0.25


def golden_tiles(input_px: int) -> NDArray[np.uint8]:
    """Synthetic tiles of every look and one of noise, uint8 [11, S, S, 3]: golden vectors hold no patient's pixels."""
    tiles = [
        Sample(label, GOLDEN_SEED + i, input_px, input_px).render() for label in LABELS for i in range(GOLDEN_EACH)
    ]
    noise = np.random.default_rng(GOLDEN_SEED).integers(0, 256, (input_px, input_px, 3), np.uint8)
    return np.stack([*tiles, noise])


def golden(candidate: Candidate, input_px: int) -> bytes:
    """golden.npz of a candidate: synthetic tiles with the logits that its engine gives here."""
    tiles = golden_tiles(input_px)
    engine = open_engine(candidate.model, candidate.engine)
    logits = run_in_batches(engine, tiles, candidate.engine.batch_tiles)
    largest = float(np.abs(logits).max())
    # Int8 rounds to one of 256 steps in every layer, and another order of sums moves some values to the next step. How
    # much that matters in this model is seen from the same arithmetic without fused kernels and from the kernels of the
    # other engines; twice that is still sound.
    others = [_unfused(candidate.model, tiles), *_elsewhere(candidate, tiles)]
    rounding = 2 * max(float(np.abs(logits - other).max()) for other in others)
    share = FP32_TOLERANCE if candidate.recipe == FP32 else INT8_TOLERANCE
    tolerance = min(max(share * largest, rounding), MAX_TOLERANCE * largest)
    return make_golden(engine, tiles, tolerance=tolerance, batch_tiles=candidate.engine.batch_tiles)


def _unfused(model: bytes, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Logits [N, C] by onnxruntime node by node: quantized values are computed with in fp32."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run([OUTPUT], {INPUT: tiles})[0], np.float32)


def _elsewhere(candidate: Candidate, tiles: NDArray[np.uint8]) -> Iterator[NDArray[np.float32]]:
    """Logits [N, C] by every other installed engine that can run the model."""
    for name in installed_engines():
        if name == candidate.engine.name:
            continue
        try:
            yield open_engine(candidate.model, EngineSettings(name=name)).run(tiles)
        except (ArtifactInvalid, SlideFailed):
            continue


def aggregation_for(
    preprocessing: Preprocessing, review: Review, slides: SlideRules, spec: OptimizationSpec
) -> Aggregation:
    """The rules from tiles to a call of a new artifact, see docs/slide_call.md.

    Where a field is a grid of many tiles, one tile out of many can be wrong by chance: a class needs two, and its
    probability is the mean of its best two. Where a field is one tile, that tile is what a person chose to show.
    """
    tiles = 2 if preprocessing.tiling == "grid" else 1
    return Aggregation(
        tile_probability=TILE_PROBABILITY,
        min_tiles=tiles,
        top_k=tiles,
        review_probability=review.overall.probability,
        review_by_specimen=review.specimen_thresholds,
        max_evidence=5,
        tile_false_alarm=slides.tile_false_alarm,
        max_unfit=MAX_UNFIT,
        max_scale=MAX_SCALE,
        min_assessed_tiles=spec.min_assessed_tiles,
        review_mixed=True,
        mixed_usual_in=spec.mixed_usual_in,
        quality=slides.quality,
        familiarity=slides.familiarity,
        quantity=slides.quantity,
    )


def draft(
    chosen: Candidate,
    original: Network,
    spec: OptimizationSpec,
    ingested: Ingested,
    *,
    temperature: float,
    review: Review,
    slides: SlideRules,
    evaluation: dict[str, Any],
    created: datetime,
    alternatives: tuple[EngineSettings, ...] = (),
    decode_reduction: Reduction = 1,
) -> ArtifactDraft:
    """The manifest of the artifact, short of what the registry adds.

    `alternatives` are the engines of `gates.other_engines`, `decode_reduction` is that of `decoding.check_decoding`.
    """
    splits = ingested.splits
    fingerprints = {split.name: split.fingerprint for split in (splits.train, splits.val, splits.test) if split}
    counts = {split.name: split.counts(spec.labels) for split in (splits.train, splits.val, splits.test) if split}
    recipe: dict[str, Any] = {"name": chosen.recipe, "network": chosen.network.name, "exporter": chosen.exporter}
    recipe["description"] = f"{chosen.network.name} network, {chosen.title}"
    if chosen.quantization:
        recipe["quantization"] = chosen.quantization
    return ArtifactDraft(
        created=created,
        source=Source(
            checkpoint_sha256=ingested.checkpoint.sha256,
            architecture=spec.architecture,
            parameters=original.parameters,
            macs=original.macs,
        ),
        labels=spec.labels,
        preprocessing=ingested.preprocessing.model_copy(update={"decode_reduction": decode_reduction}),
        calibration=Calibration(temperature=temperature),
        aggregation=aggregation_for(ingested.preprocessing, review, slides, spec),
        engine=chosen.engine,
        alternatives=alternatives,
        widths=dict(chosen.network.widths),
        recipe=recipe,
        split={"fingerprints": fingerprints, "tiles": counts, "notes": list(splits.notes)},
        packages=packages(),
        cpu=cpu(),
        evaluation=evaluation,
    )
