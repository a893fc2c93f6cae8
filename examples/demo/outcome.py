"""What came of the demo: calls beside the truth, times, the artifact beside the checkpoint."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from rich.table import Table

from examples.demo.specimens import Specimen
from gramserve.cli.calls import call_text
from gramserve.v1.slide_batch_pb2 import SlideBatch
from gramserve.v1.slide_pb2 import Slide


def agrees(specimen: Specimen, slide: Slide) -> bool:
    """True when exactly the organisms on the slide were called."""
    called = {finding.label for finding in slide.call.findings}
    return slide.state == Slide.STATE_SUCCEEDED and called == specimen.truth


def calls_beside_truth(specimens: Sequence[Specimen], slides: dict[str, Slide]) -> Table:
    """One row for each slide."""
    table = Table("slide", "truth", "call", "probability", "review", "", box=None, pad_edge=False)
    for specimen in specimens:
        slide = slides[specimen.slide_id]
        right = agrees(specimen, slide)
        table.add_row(
            specimen.slide_id,
            ", ".join(sorted(specimen.truth)) or "no organism",
            call_text(slide),
            " ".join(f"{finding.probability:.2f}" for finding in slide.call.findings),
            "yes" if slide.call.review_required else "",
            "" if right else "differs",
            style=None if right else "yellow",
        )
    return table


def times(batch: SlideBatch, slides: Sequence[Slide]) -> Table:
    """Throughput of the batch and latencies of its slides."""
    done = [slide for slide in slides if slide.state == Slide.STATE_SUCCEEDED]
    whole_s = _seconds(batch.end_time) - _seconds(batch.create_time)
    tiles = sum(slide.call.tile_count for slide in done)
    latency = [_seconds(slide.update_time) - _seconds(batch.create_time) for slide in done]
    engine = [slide.inference_duration.ToNanoseconds() / 1e9 for slide in done]
    table = Table("", "p50", "p95", "", box=None, pad_edge=False)
    table.add_row("from submission to call", *_quantiles(latency), "all slides were submitted at once")
    table.add_row("inference of a slide", *_quantiles(engine), f"{tiles / max(len(done), 1):.0f} tiles a slide")
    table.add_row("batch", f"{whole_s:.2f} s", "", f"{len(done) / whole_s:.1f} slides/s, {tiles / whole_s:.0f} tiles/s")
    return table


def artifact_beside_checkpoint(summary: dict[str, Any]) -> Table:
    """Size, speed and accuracy, as the optimizer measured them."""
    table = Table("", "checkpoint", "artifact", "", box=None, pad_edge=False)
    before, after = summary["checkpoint_bytes"], summary["artifact_bytes"]
    table.add_row("size", f"{before / 1e6:.2f} MB", f"{after / 1e6:.2f} MB", f"{before / after:.1f} times smaller")
    before, after = summary["checkpoint_images_per_s"], summary["artifact_images_per_s"]
    table.add_row("tiles/s on one core", f"{before:.0f}", f"{after:.0f}", f"{after / before:.1f} times as fast")
    proved = "proved non-inferior" if summary["proved"] else "too few tiles to prove non-inferiority"
    before, after = summary["checkpoint_accuracy"], summary["artifact_accuracy"]
    table.add_row("accuracy", f"{before:.1%}", f"{after:.1%}", f"{summary['tiles_val']} validation tiles; {proved}")
    return table


def _seconds(moment: Timestamp) -> float:
    return moment.ToNanoseconds() / 1e9


def _quantiles(seconds: Sequence[float]) -> tuple[str, str]:
    if len(seconds) < 2:
        return ("", "")
    cuts = statistics.quantiles(seconds, n=20, method="inclusive")
    return (_text(cuts[9]), _text(cuts[18]))


def _text(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"
