"""Makes docs/pictures from a night of some thousand synthetic slides: `python -m tests.night.samples`; no test does."""

from __future__ import annotations

import asyncio
import random
import re
import tempfile
from io import StringIO
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console

from gramserve.cli.status_view import status_view
from gramserve.night.report import write_report
from gramserve.samples.slides import slide
from gramserve.store.objects import open_store
from gramserve.store.records import ErrorRecord, ImageRecord, Priority
from tests.night.browser import screenshot
from tests.night.nights import EVENING, HOUR, NIGHT, NightStore, call
from tests.night.statuses import night
from tests.sources import ROOT

LABELS = ("GNR", "GPC_CLUSTERS", "GPC_PAIRS_CHAINS", "GPR")
REASONS = ("LOW_CONFIDENCE", "OUT_OF_DISTRIBUTION", "MIXED_GROWTH", "CONFLICTING_FINDINGS")
ERRORS = {
    "CORRUPT_IMAGE": "The image is damaged: its pixels cannot be decoded.",
    "UNSUPPORTED_FORMAT": "The file is not an image that can be read.",
    "IMAGE_TOO_LARGE": "The image has 20000 x 15000 pixels; the limit is 64000000 pixels.",
    "SLIDE_UNREADABLE": "The whole slide changed while it was read; send it once it is complete.",
}


async def fill(url: str, slides: int = 1500) -> None:
    """Fill the store at `url`."""
    dice, store = random.Random(7), NightStore(open_store(url))
    images = {label: [await picture(store, label, seed) for seed in range(4)] for label in LABELS}
    for before in range(1, 8):
        await earlier_night(store, before, dice)
    due = EVENING + 10.5 * HOUR
    for number, (size, hour) in enumerate([(slides, 0.0), (slides // 2, 1.5), (120, 4.0)]):
        labels = [dice.choice(LABELS) for _ in range(size)]
        batch = await store.batch(
            f"night-{number + 1}",
            size,
            at=EVENING + hour * HOUR,
            deliver_by=due,
            images=[(dice.choice(images[label]),) for label in labels],
        )
        letters, at = "", 30.0
        for index, label in enumerate(labels):
            at += dice.uniform(0.4, 1.2) * (16.0 if 300 < index < 420 else 12.0)
            if dice.random() < 0.012:
                reason = dice.choices(list(ERRORS), [8, 3, 1, 1])[0]
                await store.failed(batch, index, reason, wait_s=at, error=ErrorRecord(reason, ERRORS[reason]))
                letters += "F"
            elif number == 2 and index > 100:
                letters += "C"
            else:
                said = call(label, probability=dice.uniform(0.9, 0.999))
                if dice.random() < 0.02:
                    said = doubtful(label, dice)
                await store.succeeded(batch, index, wait_s=at, run_s=dice.uniform(1.2, 3.0), call=said)
                letters += "S"
        if number == 2:
            await store.cancel(batch, batch.create_time + at)
        await store.end(batch, letters, batch.create_time + at + 5, review=letters.count("S") // 50)
    for number in range(40):
        label = dice.choice(LABELS)
        stat = await store.batch(
            f"stat-{number:02d}",
            1,
            at=EVENING + dice.uniform(0, 9) * HOUR,
            priority=Priority.STAT,
            images=[(images[label][0],)],
        )
        said = doubtful(label, dice) if number % 13 == 0 else call(label)
        await store.succeeded(stat, 0, wait_s=dice.uniform(0.01, 0.06), run_s=dice.uniform(0.4, 1.5), call=said)
        await store.end(stat, "S", stat.create_time + 2)


def doubtful(label: str, dice: random.Random) -> dict[str, object]:
    """A call for a person, with a suspicion and four tiles to look at."""
    said = call(label, review=[dice.choice(REASONS)], probability=dice.uniform(0.5, 0.8))
    tiles = [
        {"image_index": 0, "x": x, "y": y, "width": 224, "height": 224, "probability": 0.6}
        for x, y in ((0, 0), (224, 0), (0, 224), (300, 200))
    ]
    said["findings"][0]["evidence"] = tiles[:3]
    other = dice.choice([other for other in LABELS if other != label])
    said["suspected"] = [{"label": other, "probability": 0.4, "tile_count": 1, "evidence": tiles[3:]}]
    return said


async def picture(store: NightStore, label: str, seed: int) -> ImageRecord:
    """A synthetic field: no patient's pixels."""
    pixels = slide(seed, {label}, fields=1)[0]
    done, data = cv2.imencode(".jpg", np.ascontiguousarray(pixels[:, :, ::-1]))
    assert done
    return await store.image(data.tobytes())


async def earlier_night(store: NightStore, night: int, dice: random.Random) -> None:
    """Only its end is read."""
    size, failed = dice.randint(1800, 2600), dice.randint(5, 40)
    batch = await store.batch(f"night-minus-{night}", size, at=EVENING - night * 24 * HOUR)
    await store.end(
        batch, "F" * failed + "S" * (size - failed), batch.create_time + dice.uniform(7, 10) * HOUR, review=size // 45
    )


async def pictures(folder: Path) -> None:
    """The page of the night at laptop and phone width, light and dark, and the terminal of an operator."""
    with tempfile.TemporaryDirectory() as made:
        page, store = Path(made) / "night.html", f"{made}/store"
        await fill(store)
        await write_report(store, NIGHT, page, now=EVENING + 11 * HOUR, actor="local:operator")
        for name, size, dark in (("laptop", (1040, 2080), False), ("phone", (390, 1560), True)):
            shown = Image.fromarray(screenshot(page, size, dark=dark))
            shown.quantize(128).save(folder / f"night-report-{name}.png", optimize=True)
    console = Console(width=132, record=True, file=StringIO())
    console.print(status_view(night(), "gateway:50051"))
    # Without the fonts that rich would have a browser load.
    plain = re.sub(r"@font-face \{\{.*?\n    \}\}\n", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    console.save_svg(str(folder / "status.svg"), title="gramserve status", code_format=plain)


if __name__ == "__main__":
    asyncio.run(pictures(ROOT / "docs" / "pictures"))
