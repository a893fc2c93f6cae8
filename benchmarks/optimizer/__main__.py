"""make bench-optimizer: measures int8 networks beside torch eager, and whole optimizations where they are asked for.

Writes benchmarks/results/optimizer.json and prints tables.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.optimizer import speed, synthetic, whole
from benchmarks.report import show, write

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("numpy", "nncf", "onnx", "onnxruntime", "openvino", "timm", "torch", "torch-pruning")
# What is asked of speed: (architecture, share of the work kept, engine or any, times torch eager).
TARGETS = (
    ("deit_tiny_patch16_224", 1.0, "", 5.0),
    ("deit_tiny_patch16_224", 1.0, "onnxruntime", 3.0),
    ("deit_tiny_patch16_224", 0.2, "", 14.0),
    ("resnet50", 1.0, "", 7.0),
    ("mobilenetv2_100", 0.08, "", 25.0),
)


def targets(measured: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Every target with what was measured, best recipe."""
    found = []
    for architecture, keep_macs, engine, target in TARGETS:
        if architecture not in measured:
            continue
        row = speed.best(measured[architecture]["networks"], keep_macs, engine)
        found.append(
            {
                "architecture": architecture,
                "keep_macs": keep_macs,
                "engine": row["engine"] if row else engine,
                "recipe": row["recipe"] if row else None,
                "target": target,
                "speed_ratio": row["speed_ratio"] if row else None,
                "size_ratio": row["size_ratio"] if row else None,
                "met": bool(row and row["speed_ratio"] >= target),
            }
        )
    return found


def wholes(options: argparse.Namespace, folder: Path) -> Iterator[whole.Whole]:
    """The whole optimizations that were asked for."""
    if options.tiles:
        labels = options.labels or options.tiles / "labels.yaml"
        about = (options.checkpoint, options.arch, labels, options.tiles, options.budget_minutes)
        yield whole.Whole("given tiles", *about)
    if options.budget_runs or options.memory_run:
        tiles = synthetic.data(folder / "tiles")
        labels = tiles / "labels.yaml"
    if options.budget_runs:
        architecture, epochs, px = ("mobilenetv2_100", 4, 224) if options.weights else ("test_resnet", 25, 96)
        made = synthetic.checkpoint(tiles, folder, architecture, weights=options.weights, epochs=epochs, px=px)
        for minutes in (5.0, 20.0):
            name = f"{synthetic.tiles()} synthetic tiles, {minutes:g} minutes"
            yield whole.Whole(name, made, architecture, labels, tiles, minutes)
    if options.memory_run:
        architecture = "deit_tiny_patch16_224"
        made = synthetic.checkpoint(tiles, folder, architecture, weights=None, epochs=1, px=224)
        yield whole.Whole("memory of deit_tiny", made, architecture, labels, tiles, 5.0)


def tables(figures: dict[str, Any]) -> None:
    """Print the figures for people."""
    rows = []
    for architecture, measured in figures["speed"].items():
        eager = measured["torch_eager"]
        size = f"{measured['fp32_weight_bytes'] / 1e6:.2f}"
        rows.append((architecture, "100%", "torch eager", "", f"{eager['images_per_s']:.1f}", "1.0", size))
        for network in measured["networks"]:
            for row in network["rows"]:
                names = ("", f"{network['macs'] / measured['macs']:.0%}", row["recipe"], row["engine"])
                if row["failure"]:
                    rows.append((*names, row["failure"], "", ""))
                    continue
                figure = (f"{row['images_per_s']:.1f}", f"{row['speed_ratio']:.1f}", f"{row['bytes'] / 1e6:.2f}")
                rows.append((*names, *figure))
    if rows:
        head = ("", "MACs", "recipe", "engine", "images/s", "ratio", "MB")
        show("Beside torch eager, one thread, in turns", head, rows)
    if figures["targets"]:
        named = ("", "MACs kept", "engine", "recipe", "target", "measured")
        show("Targets", named, [_target(t) for t in figures["targets"]])
    if figures["whole"]:
        show(
            "Whole optimizations",
            ("", "minutes", "took", "speed", "size", "accuracy", "checkpoint", "very major", "MiB"),
            [_whole_row(name, run) for name, run in figures["whole"].items()],
        )


def _target(found: dict[str, Any]) -> tuple[str, ...]:
    measured = "nothing" if found["speed_ratio"] is None else f"{found['speed_ratio']:.1f}"
    names = (found["architecture"], f"{found['keep_macs']:.0%}", found["engine"], found["recipe"] or "")
    return (*names, f"{found['target']:g}", measured)


def _whole_row(name: str, run: dict[str, Any]) -> tuple[str, ...]:
    times = (f"{run['budget_minutes']:g}", f"{run.get('wall_s', 0) / 60:.1f}")
    if run["failure"]:
        return (name, *times, run["failure"], "", "", "", "", str(run.get("peak_memory_mib", "")))
    h = run["headline"]
    return (
        name,
        *times,
        f"{h['speed_ratio']:.1f}",
        f"1/{h['size_ratio']:.1f}",
        f"{h['artifact_accuracy']:.1%}",
        f"{h['checkpoint_accuracy']:.1%}",
        f"{h['very_major_errors_artifact']} ({h['very_major_errors_checkpoint']})",
        str(run["peak_memory_mib"]),
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.optimizer", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny networks, few rounds, nothing written")
    parser.add_argument("--rounds", type=int, default=30, help="rounds of everything in turns")
    parser.add_argument("--tiles", type=Path, help="ImageFolder for one whole optimization of --checkpoint")
    parser.add_argument("--checkpoint", type=Path, help="fine-tuned checkpoint for --tiles")
    parser.add_argument("--arch", default="mobilenetv2_100", help="its architecture")
    parser.add_argument("--labels", type=Path, help="its labels file; default: labels.yaml in --tiles")
    parser.add_argument("--budget-minutes", type=float, default=20.0, help="the budget for --tiles")
    parser.add_argument("--budget-runs", action="store_true", help="400 synthetic tiles within 5 and within 20 minutes")
    parser.add_argument("--weights", type=Path, help="ImageNet weights of mobilenetv2_100 for --budget-runs")
    parser.add_argument("--memory-run", action="store_true", help="deit_tiny on 400 synthetic tiles within 5 minutes")
    parser.add_argument("--no-speed", action="store_true", help="only the whole optimizations")
    options = parser.parse_args()
    if bool(options.tiles) != bool(options.checkpoint):
        parser.error("--tiles and --checkpoint go together")
    return options


def main() -> None:
    """Measure, write, print."""
    options = _options()
    console = Console(stderr=True, highlight=False)

    def say(text: str) -> None:
        console.print(text)

    subjects = speed.SMALL_SUBJECTS if options.quick else speed.SUBJECTS
    rounds, max_s = (5, 5.0) if options.quick else (options.rounds, 60.0)
    measured = {} if options.no_speed else speed.run(subjects, rounds, max_s, say)
    figures: dict[str, Any] = {"speed": measured, "targets": targets(measured), "whole": {}}
    with tempfile.TemporaryDirectory() as folder:
        for each in wholes(options, Path(folder)):
            figures["whole"][each.name] = whole.run(each, say)
    tables(figures)
    if not options.quick:
        print(f"written: {write('optimizer', figures, ROOT / 'results', packages=PACKAGES).relative_to(ROOT.parent)}")


if __name__ == "__main__":
    main()
