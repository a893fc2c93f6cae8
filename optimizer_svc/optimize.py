"""The whole way from a checkpoint to an accepted artifact, stage by stage."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from gramserve.errors import NotAccepted, Reason
from optimizer_svc.calibrate import fit_temperature, reliability
from optimizer_svc.candidates import build_candidates, recipe_names
from optimizer_svc.confirm import confirm
from optimizer_svc.evaluate import Trial, baseline, choose, try_candidates
from optimizer_svc.findings import Calibrated, Findings, document, headline
from optimizer_svc.ingest import Ingested, ingest
from optimizer_svc.networks import original, pruned
from optimizer_svc.pace import Pace
from optimizer_svc.package import draft, golden
from optimizer_svc.report import render_card, render_html
from optimizer_svc.spec import OptimizationResult, OptimizationSpec, Progress, Stage
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

    What a stage made is kept in `workspace`: a later run with the same input goes on after the last finished stage. The
    report (report.html, report.json) is left there too, even when nothing is accepted. Raises InvalidInput (checkpoint,
    labels, data, recipes), ArtifactInvalid PARITY_FAILED, NotAccepted, Stopped.
    """
    pace = Pace(progress, clock, should_stop, spec.budget_minutes)
    spec.check()
    recipe_names(spec)
    findings = _search(spec, Workspace(workspace), pace, now)
    pace.say(Stage.PACKAGE, "Writing the report")
    return _package(findings, Workspace(workspace), pace)


def _search(spec: OptimizationSpec, workspace: Workspace, pace: Pace, now: Callable[[], datetime]) -> Findings:
    """All stages up to calibration."""
    pace.say(Stage.INGEST, "Reading the checkpoint and the data")
    ingested = ingest(spec, should_stop=pace.should_stop)
    pace.say(Stage.BASELINE, "Reading the val tiles with the checkpoint")
    reference = baseline(ingested, workspace)
    base = original(ingested)
    pace.say(Stage.PRUNE, "Cutting channels")
    narrow, not_pruned = pruned(base, spec, ingested, workspace, pace)
    networks = [base] if narrow is None else [base, narrow]
    candidates = build_candidates(networks, spec, ingested, workspace, pace)
    trials, eager = try_candidates(candidates, reference, spec, ingested, workspace, pace)
    pace.say(Stage.ACCEPT, "Comparing the candidates with the checkpoint")
    chosen, confirmation, note = confirm(choose(trials), trials, spec, ingested)
    pace.say(Stage.CALIBRATE, "Calibrating the probabilities")
    return Findings(
        spec=spec,
        ingested=ingested,
        created=now(),
        networks=tuple(networks),
        not_pruned=not_pruned,
        reference=reference,
        eager=eager,
        trials=tuple(trials),
        chosen=chosen,
        calibrated=_calibrate(chosen, ingested),
        confirmation=confirmation,
        confirmation_note=note,
        elapsed_s=pace.elapsed_s,
    )


def _calibrate(chosen: Trial | None, ingested: Ingested) -> Calibrated | None:
    if chosen is None or chosen.logits is None:
        return None
    targets = ingested.val.targets
    temperature = fit_temperature(chosen.logits, targets)
    before, after = (reliability(chosen.logits, targets, t) for t in (1.0, temperature))
    return Calibrated(temperature, before, after)


def _package(findings: Findings, workspace: Workspace, pace: Pace) -> OptimizationResult:
    """The report for all, the artifact for what was accepted; NotAccepted."""
    report, summary = document(findings), headline(findings)
    report_json = json.dumps(report, sort_keys=True, indent=1, allow_nan=False).encode() + b"\n"
    report_html = render_html(report)
    workspace.write("report.json", report_json)
    workspace.write("report.html", report_html)
    chosen, ingested = findings.chosen, findings.ingested
    if chosen is None or findings.calibrated is None:
        raise _not_accepted(findings)
    files = {
        "model.onnx": chosen.candidate.model,
        "golden.npz": golden(chosen.candidate, ingested.preprocessing.input_px),
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
        evaluation={**summary, "comparison": report["comparison"], "test": report["test"]},
        created=findings.created,
    )
    pace.finish(f"Accepted: {chosen.candidate.name}")
    return OptimizationResult(files, manifest, summary, report)


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
