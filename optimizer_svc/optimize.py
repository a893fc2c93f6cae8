"""The whole way from a checkpoint to an accepted artifact, stage by stage."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gramserve.errors import NotAccepted, Reason
from gramserve.runtime.aggregate import probabilities
from gramserve.runtime.tally import REFERENCE, Reference, tally
from gramserve.store.manifest import EngineSettings
from optimizer_svc.calibrate import fit_temperature, reliability
from optimizer_svc.candidates import check_recipes, engines_for
from optimizer_svc.confirm import confirm
from optimizer_svc.conformal import review_thresholds
from optimizer_svc.decoding import check_decoding, decoded
from optimizer_svc.environment import peak_memory_bytes
from optimizer_svc.evaluate import Logits, Trial, answer, baseline
from optimizer_svc.exhibits import pictures
from optimizer_svc.findings import Calibrated, Findings, document, headline
from optimizer_svc.gates import other_engines
from optimizer_svc.ingest import ingest
from optimizer_svc.ladder import Ladder
from optimizer_svc.networks import original, probe
from optimizer_svc.pace import Pace
from optimizer_svc.package import draft, golden
from optimizer_svc.repair import Repair
from optimizer_svc.report import render_card, render_html
from optimizer_svc.search import Search
from optimizer_svc.slide_rules import fit_slide_rules
from optimizer_svc.spec import OptimizationResult, OptimizationSpec, Progress, Stage
from optimizer_svc.steadiness import shortlist
from optimizer_svc.workspace import Workspace


def run_optimization(
    spec: OptimizationSpec,
    workspace: Path,
    progress: Callable[[Progress], None],
    clock: Callable[[], float] = time.monotonic,
    should_stop: Callable[[], bool] = lambda: False,
    *,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> OptimizationResult:
    """Makes the fastest artifact that keeps the checkpoint's accuracy; minutes of all cores, in the calling process.

    What a stage made is kept in `workspace`: a later run with the same input goes on after the last finished stage, and
    what time earlier runs took counts. The report (report.html, report.json) is left there too, even when nothing is
    accepted. Raises InvalidInput (checkpoint, labels, data, recipes, engines), ArtifactInvalid PARITY_FAILED,
    NotAccepted, Stopped.
    """
    kept = Workspace(workspace)
    pace = Pace(
        progress,
        clock,
        should_stop,
        spec.budget_minutes,
        spent_s=kept.elapsed_s,
        on_elapsed=kept.keep_elapsed,
    )
    spec.check()
    check_recipes(spec)
    findings = _search(spec, kept, pace, now)
    pace.say(Stage.PACKAGE, "Writing the report")
    return _package(findings, kept, pace)


def _search(spec: OptimizationSpec, workspace: Workspace, pace: Pace, now: Callable[[], datetime]) -> Findings:
    """All stages up to calibration."""
    engines = engines_for(spec)
    pace.say(Stage.INGEST, "Reading the checkpoint and the data")
    ingested = ingest(spec, should_stop=pace.should_stop)
    pace.say(Stage.BASELINE, "Reading the val tiles with the checkpoint")
    reference = baseline(ingested, workspace)
    base = original(ingested)
    pace.say(Stage.PRUNE, "Cutting channels")
    ladder = Ladder(base, spec, ingested, workspace, pace)
    narrow, not_pruned = ladder.climb_down()
    networks = [base, *narrow]
    search = Search(reference, engines, spec, ingested, workspace, pace)
    search.explore(networks)
    repair = Repair(search, ladder, spec, ingested, workspace, pace)
    networks += repair.run(networks)
    found = search.measure()
    pace.say(Stage.ACCEPT, "Comparing the candidates with the checkpoint")
    trials, named = shortlist(found.trials, spec, ingested, workspace, pace)
    chosen, confirmation, note = confirm(named, trials, spec, ingested)
    pace.say(Stage.CALIBRATE, "Calibrating the probabilities and the thresholds for review")
    calibrated = review = slides = decode = None
    if chosen is not None and chosen.logits is not None:
        val, candidate = ingested.splits.val, chosen.candidate

        def own(tiles: NDArray[np.uint8]) -> Logits:
            return answer(candidate, tiles)

        stop, contract = pace.should_stop, ingested.preprocessing
        decode = check_decoding(val, spec.labels, contract, chosen.logits, own, should_stop=stop)
        # What is set on tiles is set on tiles as they are served.
        train, seen = (
            decoded(tiles, split, spec.labels, contract, decode.reduction, should_stop=stop)
            for tiles, split in ((ingested.train, ingested.splits.train), (ingested.val, val))
        )
        logits = chosen.logits if decode.reduction == 1 else own(seen.tiles)
        calibrated = _calibrate(logits, seen.targets)
        temperature = calibrated.temperature
        review = review_thresholds(logits, temperature, val, spec.labels, risk=spec.review_risk)
        slides = fit_slide_rules(train, seen, val, logits, temperature, spec.labels, contract, own, seed=spec.seed)
    return Findings(
        spec=spec,
        ingested=ingested,
        created=now(),
        networks=tuple(networks),
        not_pruned=not_pruned,
        reference=reference,
        eager=found.eager,
        trials=trials,
        chosen=chosen,
        calibrated=calibrated,
        review=review,
        slides=slides,
        confirmation=confirmation,
        confirmation_note=note,
        sensitivity=() if chosen is None else repair.sensitivity(chosen.candidate),
        decode=decode,
        elapsed_s=pace.elapsed_s,
        peak_memory_bytes=peak_memory_bytes(),
    )


def _calibrate(logits: Logits, targets: NDArray[np.int64]) -> Calibrated:
    temperature = fit_temperature(logits, targets)
    before, after = (reliability(logits, targets, t) for t in (1.0, temperature))
    return Calibrated(temperature, before, after)


def _package(findings: Findings, workspace: Workspace, pace: Pace) -> OptimizationResult:
    """The report for all, the artifact for what was accepted; NotAccepted."""
    report, summary = document(findings), headline(findings)
    report_json = json.dumps(report, sort_keys=True, indent=1, allow_nan=False).encode() + b"\n"
    report_html = render_html(report, pictures(report["errors"], findings.ingested.val.tiles))
    workspace.write("report.json", report_json)
    workspace.write("report.html", report_html)
    chosen, ingested = findings.chosen, findings.ingested
    if chosen is None or findings.calibrated is None or findings.review is None:
        raise _not_accepted(findings)
    if findings.slides is None or findings.decode is None:
        raise _not_accepted(findings)
    vectors = golden(chosen.candidate, ingested.preprocessing.input_px)
    files = {
        "model.onnx": chosen.candidate.model,
        "golden.npz": vectors,
        "report.json": report_json,
        "report.html": report_html,
        "card.md": render_card(report),
    }
    manifest = draft(
        chosen.candidate,
        findings.networks[0],
        findings.spec,
        ingested,
        temperature=findings.calibrated.temperature,
        review=findings.review,
        slides=findings.slides,
        alternatives=_alternatives(chosen, findings, vectors),
        decode_reduction=findings.decode.reduction,
        evaluation={
            **summary,
            "comparison": report["comparison"],
            "test": report["test"],
            REFERENCE: _reference(chosen, findings.calibrated, findings.spec).to_json(),
        },
        created=findings.created,
    )
    pace.finish(f"Accepted: {chosen.candidate.name}")
    return OptimizationResult(files, manifest, summary, report)


def _reference(chosen: Trial, calibrated: Calibrated, spec: OptimizationSpec) -> Reference:
    """What the artifact says of the tiles of val: workers show it beside what they see."""
    if chosen.logits is None:
        return Reference({}, {})
    counts = tally(probabilities(chosen.logits, calibrated.temperature), spec.labels)
    return Reference.counted(counts, spec.labels)


def _alternatives(chosen: Trial, findings: Findings, vectors: bytes) -> tuple[EngineSettings, ...]:
    """The other engines that may run the very same file: accepted on val as well, and the golden vectors hold."""
    candidate = chosen.candidate
    accepted = [t for t in findings.trials if t.accepted and t.candidate.digest == candidate.digest]
    fastest = sorted(accepted, key=lambda t: t.latency.median_s if t.latency else math.inf)
    return other_engines(
        candidate.model,
        vectors,
        candidate.engine,
        [trial.candidate.engine for trial in fastest],
        probe(findings.ingested),
        classes=len(findings.spec.labels),
    )


def _not_accepted(findings: Findings) -> NotAccepted:
    """Says whether candidates are worse, or only the tiles too few to tell."""
    spec, tiles = findings.spec, len(findings.ingested.val)
    if findings.confirmation is not None:
        return NotAccepted(Reason.NOT_ACCEPTED, findings.confirmation_note, metadata={"split": "test"})
    comparisons = [trial.comparison for trial in findings.trials if trial.comparison is not None]
    unproved = [comparison for comparison in comparisons if not comparison.failures]
    if not unproved:
        return NotAccepted(Reason.NOT_ACCEPTED, "every candidate is worse than the checkpoint; see the report")
    best = unproved[0]
    return NotAccepted(
        Reason.NOT_ACCEPTED,
        f"{len(unproved)} candidates are as good as the checkpoint on the {tiles} val tiles, but so few tiles can "
        f"prove a margin of {best.smallest_margin:.1%} at best, not {spec.margin:.1%} of accuracy and "
        f"{spec.recall_margin:.1%} of each class's recall: about {best.tiles_needed} tiles in this mix are needed, or "
        "allow an unproved artifact, which will say so",
        metadata={
            "tiles": str(tiles),
            "tiles_needed": str(best.tiles_needed),
            "smallest_margin": f"{best.smallest_margin:.4f}",
            "margin": f"{spec.margin:.4f}",
        },
    )
