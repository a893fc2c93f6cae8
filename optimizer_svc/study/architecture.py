"""The study of one architecture: its networks, recipes and engines, read on val and timed in one run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from gramserve.errors import GramserveError
from gramserve.runtime.engines import engine_options
from gramserve.store.manifest import EngineSettings
from optimizer_svc.acceptance import Comparison, Rules, compare
from optimizer_svc.candidates import FP32, Candidate, Workshop, engine_label
from optimizer_svc.environment import cpu, peak_memory_bytes
from optimizer_svc.evaluate import EAGER, Logits, baseline, time_all, validate
from optimizer_svc.families import family_of
from optimizer_svc.ingest import Ingested, ingest
from optimizer_svc.ladder import Ladder
from optimizer_svc.latency import Latency
from optimizer_svc.networks import Network, original
from optimizer_svc.pace import Pace
from optimizer_svc.quantization import logit_snr_db, recipes_for
from optimizer_svc.spec import OptimizationSpec, Progress, Stage
from optimizer_svc.study.checkpoints import checkpoint_of
from optimizer_svc.study.spec import Task
from optimizer_svc.workspace import Kept, Workspace

# Scales of the weights, by the same tool and with the same scope: what the study compares.
TENSOR, CHANNEL = "int8_tensor_core", "int8_channel_core"
# The optimizer's best bets are tried in turn until one works.
BETS = 3
FINETUNING_SHARE = 0.4
MOST_DB = 99.0  # equal logits are infinitely close


def study_architecture(
    task: Task, folder: Path, progress: Callable[[str, float], None], clock: Callable[[], float]
) -> dict[str, Any]:
    """Every figure of one architecture, JSON-ready; hours with large ones, and resumable from `folder`.

    What cannot be made (a network, a recipe, an engine) is a row whose `failure` says why. Raises GramserveError where
    there is nothing to study at all: data, checkpoint, weights.
    """
    begin = 0.0 if task.checkpoint else FINETUNING_SHARE
    checkpoint = checkpoint_of(task, folder, lambda text, share: progress(text, begin * share))

    def say(step: Progress) -> None:
        progress(step.message, begin + (1 - begin) * step.fraction)

    spec = OptimizationSpec(
        checkpoint=checkpoint,
        architecture=task.architecture,
        labels=task.labels,
        data=task.data,
        model="study",
        budget_minutes=task.budget_minutes,
        allow_unproved=True,
        prune_macs=task.keep_macs or 1.0,
        # One that was fine-tuned here says itself for what size.
        input_px=None if task.checkpoint is None else task.input_px,
        distill_epochs=task.distill_epochs,
        seed=task.seed,
    )
    spec.check()
    pace = Pace(say, clock, lambda: False, spec.budget_minutes)
    workspace = Workspace(folder)
    pace.say(Stage.INGEST, "Reading the checkpoint and the data")
    ingested = ingest(spec)
    key = {**ingested.identity, "keep_macs": task.keep_macs, "distill_epochs": task.distill_epochs}
    key |= {"budget_minutes": task.budget_minutes, "cpu": cpu()}

    def make() -> Kept:
        facts = _Study(spec, ingested, workspace, pace).run()
        return Kept({**facts, "finetuned": task.checkpoint is None, "peak_memory_bytes": peak_memory_bytes()}, {})

    return dict(workspace.once("study", key, make).facts)


class _Study:
    def __init__(self, spec: OptimizationSpec, ingested: Ingested, workspace: Workspace, pace: Pace) -> None:
        self._spec, self._ingested, self._workspace, self._pace = spec, ingested, workspace, pace
        self._engines: tuple[EngineSettings, ...] = tuple(o for o in engine_options() if not o.settings)
        self._workshop = Workshop(spec, ingested, workspace, self._engines, pace.should_stop)
        self._family = family_of(ingested.checkpoint.model, spec.architecture)
        recipes = recipes_for(self._family.transformer, full_bias=self._family.full_bias)
        self._bets = tuple(recipe for recipe in recipes if recipe not in {TENSOR, CHANNEL})[:BETS]

    def run(self) -> dict[str, Any]:
        pace, ingested = self._pace, self._ingested
        pace.say(Stage.BASELINE, "Reading the val tiles with the checkpoint")
        reference = baseline(ingested, self._workspace)
        networks, not_pruned = self._networks()
        candidates: list[Candidate] = []
        for i, network in enumerate(networks):
            candidates += self._made(network, i / len(networks), 1 / len(networks))
        answers: dict[str, tuple[Logits, Comparison]] = {}
        for i, candidate in enumerate(candidates):
            if not candidate.failure:
                pace.say(Stage.MEASURE, f"Reading the val tiles with {candidate.name}", 0.5 * i / len(candidates))
                answers[candidate.name] = validate(candidate, reference, self._spec, ingested, self._workspace)
        read = [candidate for candidate in candidates if candidate.name in answers]
        pace.say(Stage.MEASURE, f"Timing {len(read)} candidates and the checkpoint on one thread", 0.5)
        speeds = time_all(read, self._spec, ingested, self._workspace, pace)
        return {
            "architecture": self._spec.architecture,
            "family": self._family.name,
            "transformer": self._family.transformer,
            "input_px": ingested.checkpoint.input.px,
            "tiles": {"train": len(ingested.train), "val": len(ingested.val)},
            "fingerprints": {"train": ingested.splits.train.fingerprint, "val": ingested.splits.val.fingerprint},
            "notes": list(ingested.notes),
            "best_recipes": self._best(candidates),
            "checkpoint": self._checkpoint(networks[0], reference, speeds[EAGER]),
            "not_pruned": not_pruned,
            "networks": [_network(network) for network in networks],
            "rows": [self._row(c, answers, speeds) for c in candidates],
            "channel_against_tensor": list(self._scales(candidates, answers, speeds)),
        }

    def _networks(self) -> tuple[list[Network], str]:
        """The checkpoint's own and the narrowest pruned one, where there is one; why there is none."""
        base = original(self._ingested)
        if self._spec.prune_macs == 1:
            return [base], "pruning was not asked for"
        self._pace.say(Stage.PRUNE, "Cutting channels")
        narrow, reason = Ladder(base, self._spec, self._ingested, self._workspace, self._pace).climb_down()
        return [base, *sorted(narrow, key=lambda network: network.macs)[:1]], reason

    def _made(self, network: Network, begin: float, share: float) -> Iterator[Candidate]:
        """A network in fp32 and by every recipe on every engine; a failed export is one candidate that says so."""
        self._pace.say(Stage.EXPORT, f"Exporting the {network.name} network to ONNX", begin)
        try:
            fp32 = self._workshop.fp32(network)
        except GramserveError as error:
            yield Candidate(network, FP32, self._engines[0], b"", error.message, "", 0.0)
            return
        yield from fp32
        for i, recipe in enumerate((TENSOR, CHANNEL, *self._bets)):
            text = f"Quantizing the {network.name} network: {recipe}"
            self._pace.say(Stage.QUANTIZE, text, begin + share * i / (2 + BETS))
            made = self._workshop.int8(replace(fp32[0], failure=""), recipe, transformer=self._family.transformer)
            yield from made
            if recipe in self._bets and any(not candidate.failure for candidate in made):
                break

    def _best(self, candidates: Sequence[Candidate]) -> dict[str, str]:
        """The best bet of each network: the first recipe that works on it, else the first."""
        best: dict[str, str] = {}
        for candidate in candidates:
            if candidate.recipe in self._bets and not candidate.failure:
                best.setdefault(candidate.network.name, candidate.recipe)
        return {c.network.name: best.get(c.network.name, self._bets[0]) for c in candidates}

    def _checkpoint(self, network: Network, reference: Logits, eager: Latency) -> dict[str, Any]:
        called, val = reference.argmax(1), self._ingested.val.targets
        own = compare(called, called, val, self._spec.labels, Rules())
        checkpoint = self._ingested.checkpoint
        return {
            "sha256": checkpoint.sha256,
            "bytes": checkpoint.fp32_bytes,
            "parameters": checkpoint.parameters,
            "macs": network.macs,
            **_accuracy(own),
            **_speed(eager),
            "very_major": list(own.very_major_checkpoint),
        }

    def _row(
        self, candidate: Candidate, answers: dict[str, tuple[Logits, Comparison]], speeds: dict[str, Latency]
    ) -> dict[str, Any]:
        row: dict[str, Any] = {
            "network": candidate.network.name,
            "recipe": candidate.recipe,
            "title": candidate.title,
            "engine": engine_label(candidate.engine),
            "failure": candidate.failure,
        }
        if candidate.failure:
            return row
        logits, comparison = answers[candidate.name]
        latency = speeds[candidate.name]
        row |= {
            "bytes": len(candidate.model),
            **_accuracy(comparison),
            **_speed(latency),
            "speed_up": round(speeds[EAGER].median_s / latency.median_s, 3),
            "size_ratio": round(self._ingested.checkpoint.fp32_bytes / len(candidate.model), 2),
            "difference": asdict(comparison.difference),
            "mcnemar_p": comparison.mcnemar_p,
            "very_major": list(comparison.very_major_candidate),
            "new_very_major": len(comparison.new_very_major),
            "snr_db": None,
        }
        fp32 = answers.get(replace(candidate, recipe=FP32).name)
        if candidate.recipe != FP32 and fp32 is not None:
            row["snr_db"] = round(min(MOST_DB, logit_snr_db(fp32[0], logits)), 2)
        return row

    def _scales(
        self,
        candidates: Sequence[Candidate],
        answers: dict[str, tuple[Logits, Comparison]],
        speeds: dict[str, Latency],
    ) -> Iterator[dict[str, Any]]:
        """Scales per channel against one per tensor, paired on the same tiles, for every network and engine."""
        for candidate in candidates:
            tensor = replace(candidate, recipe=TENSOR).name
            if candidate.recipe != CHANNEL or candidate.name not in answers or tensor not in answers:
                continue
            calls = [answers[name][0].argmax(1) for name in (tensor, candidate.name)]
            paired = compare(calls[0], calls[1], self._ingested.val.targets, self._spec.labels, Rules())
            yield {
                "network": candidate.network.name,
                "engine": engine_label(candidate.engine),
                "difference": asdict(paired.difference),
                "mcnemar_p": paired.mcnemar_p,
                "speed_ratio": round(speeds[tensor].median_s / speeds[candidate.name].median_s, 3),
            }


def _network(network: Network) -> dict[str, Any]:
    told = ("keep_macs", "importance", "scope", "ratio")
    facts: dict[str, Any] = {name: network.facts[name] for name in told if name in network.facts}
    epochs = len(network.facts.get("epochs", ()))
    return {
        "name": network.name,
        "macs": network.macs,
        "parameters": network.parameters,
        "epochs_of_distillation": epochs,
        **facts,
    }


def _accuracy(comparison: Comparison) -> dict[str, float]:
    return {
        "accuracy": comparison.accuracy,
        "accuracy_low": comparison.accuracy_low,
        "accuracy_high": comparison.accuracy_high,
    }


def _speed(latency: Latency) -> dict[str, float]:
    return {
        "images_per_s": round(latency.images_per_s, 2),
        "images_per_s_low": round(1 / latency.high_s, 2),
        "images_per_s_high": round(1 / latency.low_s, 2),
    }
