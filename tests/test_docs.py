"""The pages of docs/ that are made from the code."""

from __future__ import annotations

import re
import subprocess
import sys
from xml.etree import ElementTree

from tests.sources import ROOT
from tests.waiting import HANGS_S

SVG = "{http://www.w3.org/2000/svg}"


def test_the_tables_of_settings_and_metrics_are_those_of_the_code() -> None:
    command = [sys.executable, "docs/generate.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=HANGS_S)
    assert done.returncode == 0, done.stderr


def test_every_setting_of_every_service_is_in_the_table_with_a_sentence() -> None:
    rows = [line.split(" | ") for line in (ROOT / "docs/settings.md").read_text().splitlines() if "| `GRAM" in line]
    names = [row[0] for row in rows]
    assert len(names) == len(set(names)) > 30
    for row in rows:
        assert row[-1].rstrip(" |").endswith((".", ")")), row


def test_every_text_of_the_drawing_fits_its_box() -> None:
    """In a wide font (DejaVu Sans), where a letter takes about 0.53 of its size."""
    drawing = ElementTree.parse(ROOT / "docs/flow.svg").getroot()
    sizes = {"title": 14.0, "small": 11.5}
    boxes = [
        {key: float(box.get(key, "0")) for key in ("x", "y", "width", "height")} for box in drawing.iter(f"{SVG}rect")
    ]
    texts = list(drawing.iter(f"{SVG}text"))
    wide = []
    for text in texts:
        x, y, written = float(text.get("x", "0")), float(text.get("y", "0")), "".join(text.itertext())
        around = [box["width"] for box in boxes if 0 < x - box["x"] < box["width"] and 0 < y - box["y"] < box["height"]]
        room = min(around, default=float(drawing.get("viewBox", "").split()[2]))
        if len(written) * sizes[text.get("class", "")] * 0.53 > room:
            wide.append(written)
    assert len(texts) > 20
    assert wide == []


def test_no_picture_loads_anything_from_elsewhere() -> None:
    pictures = [*ROOT.glob("docs/**/*.svg"), *ROOT.glob("benchmarks/results/*.svg")]
    loading = re.compile(r"""(?:url\(["']?|href=["'])https?:""")
    assert len(pictures) >= 5
    assert [picture.name for picture in pictures if loading.search(picture.read_text(encoding="utf-8"))] == []
