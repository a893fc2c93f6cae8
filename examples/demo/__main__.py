"""Fine-tunes, optimizes, serves and calls synthetic slides, then says how it went; leaves everything in .demo/."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console

from examples.demo import outcome
from examples.demo.specimens import FIELDS, Specimen, write_specimens
from gramserve.cli.following import follow
from gramserve.client import GramserveClient
from gramserve.errors import GramserveError
from gramserve.local import Stack, StackOptions
from gramserve.samples import LABELS, write_image_folder, write_labels_yaml
from gramserve.v1.slide_batch_pb2 import SlideBatch
from gramserve.v1.slide_pb2 import Slide

HOME = Path(".demo")
MODEL = "demo"
ARCHITECTURE = "test_resnet"
INPUT_PX = 96
EPOCHS = 18
TILES = {"train": 120, "val": 80, "test": 40}
SEED = 7

out = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 120, record=True)


@contextmanager
def step(title: str) -> Iterator[None]:
    """Says what is done, and afterwards how long it took."""
    out.print(f"\n{title}", style="bold")
    started = time.monotonic()
    yield
    out.print(f"  {time.monotonic() - started:.1f} s", style="dim")


def relative(line: str) -> str:
    """The line without the folder that the demo was started in."""
    return line.replace(f"{Path.cwd()}/", "")


async def gramserve(*words: str) -> None:
    """Runs a command of the command line, showing it. Exits when it fails."""
    lines = textwrap.wrap(f"$ gramserve {' '.join(words)}", 110, subsequent_indent="      ", break_on_hyphens=False)
    out.print("  " + " \\\n".join(lines), style="cyan", soft_wrap=True)
    process = await asyncio.create_subprocess_exec(str(Path(sys.executable).with_name("gramserve")), *words)
    if await process.wait():
        sys.exit(f"demo: gramserve {words[0]} failed")


async def main() -> int:
    """The demo; the exit code."""
    shutil.rmtree(HOME, ignore_errors=True)
    tiles, labels, checkpoint = HOME / "tiles", HOME / "labels.yaml", HOME / "checkpoint.safetensors"
    with step("1. Labelled synthetic tiles, and slides that no training sees"):
        count = await asyncio.to_thread(write_image_folder, tiles, TILES, seed=SEED, image_format="jpg")
        write_labels_yaml(labels)
        specimens = await asyncio.to_thread(write_specimens, HOME / "slides", seed=1000 * SEED)
        out.print(f"  {count} tiles of {len(LABELS)} classes; {len(specimens)} slides of {FIELDS} fields")
    with step(f"2. Fine-tuning {ARCHITECTURE}"):
        words = ["--arch", ARCHITECTURE, "--input-px", str(INPUT_PX), "--epochs", str(EPOCHS), "--labels", str(labels)]
        await gramserve("finetune", str(tiles), *words, "--output", str(checkpoint))
    stack = Stack(
        StackOptions(HOME / "data", gateway_port=0, optimizer_port=0), lambda line: out.print(f"  {relative(line)}")
    )
    with step("3. Starting Redis, gateway, worker and optimizer (as `gramserve up` does)"):
        await stack.start()
    try:
        with step("4. Optimizing the checkpoint"):
            words = ["--arch", ARCHITECTURE, "--labels", str(labels), "--data", str(tiles), "--model", MODEL]
            words += ["--budget-minutes", "1", "--allow-unproved", "--promote"]
            await gramserve("optimize", str(checkpoint), *words, "--optimizer", stack.address("optimizer"))
        with step("5. Submitting slides over gRPC and watching them"):
            batch, slides = await classify(stack.address("gateway"), specimens)
    finally:
        with step("6. Stopping"):
            await stack.stop()
    report(batch, slides, specimens)
    counts = batch.completion_stats
    out.print(
        f"demo: {counts.total_count} slides submitted, {counts.succeeded_count} succeeded, {counts.failed_count} failed"
    )
    return 0 if counts.succeeded_count == counts.total_count == len(specimens) else 1


async def classify(gateway: str, specimens: list[Specimen]) -> tuple[SlideBatch, dict[str, Slide]]:
    """Uploads and submits the slides; the terminal batch and its slides by id."""
    async with GramserveClient(gateway) as client:
        sources = [await client.upload_slide(specimen.slide_id, specimen.fields) for specimen in specimens]
        batch = await client.create_batch(sources, model=f"models/{MODEL}")
        out.print(f"  {batch.name} runs with {batch.model_version}")
        batch = await follow(client, batch.name)
        return batch, {slide.slide_id: slide async for slide in client.results(batch.name)}


def report(batch: SlideBatch, slides: dict[str, Slide], specimens: list[Specimen]) -> None:
    """Prints calls, figures and where to read more."""
    version = HOME / "data" / "store" / batch.model_version
    summary: dict[str, Any] = json.loads((version / "report.json").read_text(encoding="utf-8"))["headline"]
    right = sum(outcome.agrees(specimen, slides[specimen.slide_id]) for specimen in specimens)
    out.print("\nCalls beside the truth", style="bold")
    out.print(outcome.calls_beside_truth(specimens, slides))
    out.print(
        f"{right} of {len(specimens)} calls match the truth exactly (synthetic slides, a model trained for a minute)"
    )
    out.print("\nTimes", style="bold")
    out.print(outcome.times(batch, list(slides.values())))
    out.print("\nThe artifact beside the checkpoint", style="bold")
    out.print(outcome.artifact_beside_checkpoint(summary))
    out.print("\nRead more", style="bold")
    for path in (version / "report.html", version / "card.md", version / "manifest.json"):
        out.print(f"  {path}")
    out.print()


if __name__ == "__main__":
    try:
        code = asyncio.run(main())
    except GramserveError as error:
        sys.exit(f"demo: {error.message} ({error.reason})")
    if len(sys.argv) > 1:  # python -m examples.demo docs/demo.svg: the picture of the README
        # Without the fonts that rich would have a browser load.
        plain = re.sub(r"@font-face \{\{.*?\n    \}\}\n", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
        out.save_svg(sys.argv[1], title="make demo", code_format=plain)
    sys.exit(code)
