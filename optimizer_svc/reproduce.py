"""The command that repeats an optimization."""

from __future__ import annotations

import shlex

from optimizer_svc.spec import OptimizationSpec


def command(spec: OptimizationSpec) -> str:
    """`gramserve optimize` with all settings that are not the defaults; placeholders for what lies on disk."""
    defaults = {name: field.default for name, field in type(spec).__dataclass_fields__.items()}
    words = ["gramserve optimize CHECKPOINT", f"--arch {shlex.quote(spec.architecture)}", "--labels LABELS.yaml"]
    words += ["--data DATA", f"--model {shlex.quote(spec.model)}", f"--budget-minutes {spec.budget_minutes:g}"]
    options = {
        "--margin": ("margin", spec.margin),
        "--recall-margin": ("recall_margin", spec.recall_margin),
        "--review-risk": ("review_risk", spec.review_risk),
        "--keep-macs": ("prune_macs", spec.prune_macs),
        "--importance": ("importance", spec.importance),
        "--scope": ("scope", spec.scope),
        "--input-px": ("input_px", spec.input_px),
        "--min-assessed-tiles": ("min_assessed_tiles", spec.min_assessed_tiles),
    }
    words += [f"{option} {value}" for option, (field, value) in options.items() if value != defaults[field]]
    words += [f"--{name} {' '.join(map(str, given))}" for name in ("mean", "std") if (given := getattr(spec, name))]
    words += [f"--recipe {shlex.quote(name)}" for name in spec.recipes]
    words += [f"--engine {shlex.quote(name)}" for name in spec.engines]
    words += [f"--mixed-usual-in {shlex.quote(name)}" for name in spec.mixed_usual_in]
    words += ["--allow-unproved"] if spec.allow_unproved else []
    words += [] if spec.quantization_aware else ["--no-quantization-aware"]
    words.append(f"--seed {spec.seed}")
    return " ".join(words)
