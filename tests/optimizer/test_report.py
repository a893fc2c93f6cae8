from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from gramserve.store.manifest import Familiarity, QuantityBands, TileQuality
from optimizer_svc.conformal import CurvePoint, Review, Threshold
from optimizer_svc.exhibits import pictures
from optimizer_svc.report import render_card, render_html
from optimizer_svc.slide_rules import SlideRules, StandIn
from tests.optimizer.conftest import LABELS

NAMES = [label.name for label in LABELS]


def difference(tiles: int, margin: float, *, proved: bool) -> dict[str, Any]:
    facts = {"tiles": tiles, "gained": 0, "lost": 0, "estimate": 0.0, "low": -0.037, "high": 0.037}
    return {**facts, "margin": margin, "proved": proved, "smallest_margin": 0.037}


def candidate(name: str, **facts: Any) -> dict[str, Any]:
    network, recipe, *_ = name.split()
    return {
        "name": name,
        "network": network,
        "recipe": recipe,
        "title": recipe,
        "engine": {"name": "onnxruntime"},
        "engine_label": "onnxruntime",
        "stage": "VALIDATED",
        "front": None,
        "snr_db": 21.0,
        "quick_images_per_s": 118.0,
        "macs": 3e8,
        "parameters": 2_000_000,
        "bytes": 2_500_000,
        "exporter": "dynamo",
        "parity": 1e-6,
        "accepted": False,
        "chosen": False,
        "why_not": "",
        "images_per_s": 120.0,
        "images_per_s_low": 110.0,
        "images_per_s_high": 130.0,
        "ms": 8.3,
        "accuracy": 0.99,
        "accuracy_low": 0.94,
        "accuracy_high": 0.999,
        "very_major": [0, 0],
        "proved": False,
        **facts,
    }


def error(place: int, severity: str, *, new: bool = False) -> dict[str, Any]:
    call = {"label": "BACKGROUND", "probability": 0.61}
    facts = {"place": place, "tile": f"{place:012x}", "true": "GPC_PAIRS_CHAINS", "severity": severity, "new": new}
    return {**facts, "checkpoint": call, "artifact": call}


def pruned(name: str, parent: str) -> dict[str, Any]:
    epochs = [[1, 0.5, 0.8, 0.4], [2, 0.4, 0.9, 0.3]]
    facts = {"name": name, "macs": 1.5e8, "parameters": 1_000_000, "ratio": 0.25, "parent": parent, "epochs": epochs}
    return {**facts, "layers": [["conv1", 32, 16], ["fc", 5, 5]]}


def step(name: str, images_per_s: float | None, size: int) -> dict[str, Any]:
    facts = {"name": name, "what": "", "images_per_s": images_per_s, "ms": None, "bytes": size, "accuracy": 0.99}
    return {**facts, "quick": False, "macs": 3e8, "speed_gain": None, "size_gain": None}


THRESHOLD = Threshold(0.83, 102, 102, 0.07, 0.01, 0.02, True, 0.0, 0.0097, True)
CURVE = (CurvePoint(0.5, 0.0, 0.03, 0.01), CurvePoint(0.83, 0.07, 0.01, 0.0), CurvePoint(1.0, 0.9, 0.0, 0.0))
REVIEW = Review(0.05, 0.01, THRESHOLD, {"csf": THRESHOLD}, CURVE, ("Specimen type rare has too few tiles.",))

SLIDES = SlideRules(
    TileQuality(focus_exponent=2.0, min_focus=0.01, min_contrast=2.5, min_saturation=6.0),
    Familiarity(max_energy=-1.5, max_strange=0.2),
    QuantityBands(few=0.05, moderate=0.25, many=0.75, min_tiles=8),
    0.006,
    102,
    0.0,
    0.02,
    0.01,
    (StandIn("out of focus", 0.91, 64), StandIn("twice the magnification", 0.31, 64)),
    ("Only 31% of the tiles that were spoilt (twice the magnification) were noticed: do not rely on this check.",),
)


def facts() -> dict[str, Any]:
    chosen = candidate("original int8_channel_core", accepted=True, chosen=True, front=1)
    nothing = {"accuracy": None, "images_per_s": None, "very_major": None}
    broken = {**candidate("pruned fp32", why_not="cannot quantize", stage="FAILED"), **nothing, "bytes": None}
    dropped = candidate("pruned int8_mse", why_not="int8_channel_core is closer to fp32", stage="DROPPED") | nothing
    table = [[20 if i == j else 0 for j in range(5)] for i in range(5)]
    table[1][0] = 1
    bins = [{"tiles": 90, "confidence": 0.97, "accuracy": 0.99}, {"tiles": 12, "confidence": 0.6, "accuracy": 0.5}]
    return {
        "model": "gram <script>alert(1)</script>",
        "created": "2026-11-23T12:00:00+00:00",
        "elapsed_s": 300.0,
        "peak_memory_bytes": 2_100_000_000,
        "headline": {
            "architecture": "mobilenetv2_100",
            "proved": False,
            "tiles_val": 102,
            "speed_ratio": 4.2,
            "size_ratio": 3.5,
            "artifact_images_per_s": 120.0,
            "checkpoint_images_per_s": 28.0,
            "artifact_bytes": 2_500_000,
            "checkpoint_bytes": 8_900_000,
            "artifact_accuracy": 0.99,
            "checkpoint_accuracy": 0.99,
        },
        "labels": [label.model_dump(mode="json", exclude_none=True) for label in LABELS],
        "checkpoint": {
            **candidate("original checkpoint"),
            "architecture": "mobilenetv2_100",
            "sha256": "ab" * 32,
            "images_per_s": 28.0,
            "images_per_s_low": 27.0,
            "images_per_s_high": 29.0,
        },
        "candidates": [
            chosen,
            broken,
            dropped,
            candidate("pruned int8_tensor_wide", why_not="Gram flips increase from 0 to 3"),
        ],
        "chosen": chosen,
        "comparison": {
            "accuracy_low": 0.94,
            "accuracy_high": 0.999,
            "difference": difference(102, 0.01, proved=False),
            "mcnemar_p": 1.0,
            "recalls": {name: difference(20, 0.05, proved=False) for name in NAMES},
            "very_major_candidate": [1, 0],
            "smallest_margin": 0.036,
            "tiles_needed": 381,
        },
        "confusion": {"checkpoint": table, "artifact": table},
        "errors": [
            error(3, "missed organism", new=True),
            error(9, "Gram flip"),
            *(error(place, "other") for place in range(20, 46)),
        ],
        "test": None,
        "test_note": "There is no test split: the choice made on val was not confirmed on other tiles.",
        "calibration": {
            "temperature": 0.7,
            "before": {"ece": 0.08, "nll": 0.2, "bins": bins},
            "after": {"ece": 0.03, "nll": 0.1, "bins": bins},
        },
        "review": REVIEW.to_json(),
        "slides": SLIDES.to_json(),
        "pruning": {
            "skipped": "",
            "networks": [
                {"name": "original", "macs": 3e8, "parameters": 2_000_000},
                pruned("pruned 50%", "original"),
                pruned("pruned 25%", "pruned 50%"),
            ],
        },
        "steps": [
            step("checkpoint", 28.0, 8_900_000),
            {**step("original fp32", 60.0, 8_800_000), "speed_gain": 2.1, "size_gain": 1.01},
            {**step("original int8_channel_core", None, 2_500_000), "size_gain": 3.5},
        ],
        "sensitivity": [
            {"layer": f"/blocks/blocks.{i}/Conv", "operator": "Conv", "snr_gain_db": i / 10} for i in range(30)
        ],
        "decode": {"reduction": 2, "changed": 0, "tiles": 102, "note": "JPEG fields are decoded at half their size."},
        "rules": {"margin": 0.01, "recall_margin": 0.05, "allow_unproved": True},
        "data": {
            "splits": [{"name": "val", "fingerprint": "cd" * 32, "tiles": dict.fromkeys(NAMES, 20)}],
            "notes": ["There is no groups.csv."],
            "preprocessing": {"tiling": "grid", "tile_px": 500, "max_single_px": 750, "input_px": 224},
        },
        "environment": {"packages": {"torch": "2"}, "cpu": {"name": "A CPU", "cores": 2, "flags": ["avx512_vnni"]}},
        "command": "gramserve optimize CHECKPOINT --arch mobilenetv2_100 --seed 0",
        "settings": {"seed": 0},
    }


@pytest.fixture
def report() -> dict[str, Any]:
    return facts()


@pytest.fixture(scope="module")
def html() -> str:
    """The page with pictures, as it is published."""
    report = facts()
    return render_html(report, pictures(report["errors"], np.full((46, 128, 128, 3), 90, np.uint8))).decode()


class Page(HTMLParser):
    """Collects what a browser would load or run, and whether tags are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in {"src", "href", "xlink:href"} and not (value or "").startswith("#"):
                self.loads.append(value or "")
            if name == "id":
                self.ids.append(value or "")


def read(html: str) -> Page:
    page = Page()
    page.feed(html)
    return page


def test_a_report_loads_nothing_and_runs_nothing(html: str) -> None:
    page = read(html)
    assert page.loads
    assert all(load.startswith("data:image/jpeg;base64,") for load in page.loads)
    assert not {"script", "link", "iframe", "object", "embed"} & set(page.tags)
    assert "&lt;script&gt;" in html
    assert not re.search(r"url\((?!#)", html)
    assert "default-src 'none'" in html
    assert page.tags.count("svg") == 10


def test_wrongly_called_tiles_are_shown_the_worst_first_and_the_rest_on_request(html: str) -> None:
    assert html.count("<img ") == 28
    assert html.index("missed organism, new") < html.index("Gram flip<") < html.index("The other 4")
    assert "28 of 102 validation tiles wrongly; 2 of these errors are very major, 1 is not the checkpoint's" in html
    assert "GPC_<wbr>PAIRS_<wbr>CHAINS" in html


def test_without_pictures_the_errors_are_still_told(report: dict[str, Any]) -> None:
    html = render_html(report).decode()
    assert "<img" not in html
    assert html.count("<figcaption><span") == 2


def test_candidates_that_were_dropped_stand_apart_with_the_reason(html: str) -> None:
    assert "1 candidate was validated and not accepted" in html
    assert "2 were dropped before validation" in html
    assert html.index("dropped before validation") < html.index("int8_channel_core is closer to fp32")


def test_the_review_thresholds_are_told_with_what_they_promise(html: str, report: dict[str, Any]) -> None:
    assert "below <strong>0.8300</strong> goes to a person: 7.0% of the validation tiles" in html
    assert "both can be promised" in html
    assert "csf" in html
    assert "Specimen type rare has too few tiles." in html
    assert "below 0.8300 go to a person; of csf below 0.8300." in render_card(report).decode()


def test_what_the_rules_for_slides_notice_is_told_and_what_they_do_not(html: str, report: dict[str, Any]) -> None:
    assert "2.0% would be left out as out of focus" in html
    assert "do not rely on this check" in html
    assert "out of focus 91.0%, twice the magnification 31.0%." in render_card(report).decode()


def test_a_report_tells_how_to_repeat_it(html: str) -> None:
    assert "gramserve optimize CHECKPOINT --arch mobilenetv2_100 --seed 0" in html
    assert "at most 2.1 GB of memory" in html


def test_the_ids_of_the_plots_do_not_clash(html: str) -> None:
    ids = read(html).ids
    assert len(ids) == len(set(ids))


def test_plots_take_their_colours_from_the_page(html: str) -> None:
    assert "prefers-color-scheme: dark" in html
    for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL):
        assert not re.findall(r"#0[1-6]0[1-6]0[1-6]", svg)
        assert "var(--ink)" in svg


def test_a_report_is_the_same_for_the_same_findings(html: str, report: dict[str, Any]) -> None:
    tiles = np.full((46, 128, 128, 3), 90, np.uint8)
    assert render_html(report, pictures(report["errors"], tiles)).decode() == html


def test_a_report_says_that_an_acceptance_was_not_proved_and_what_it_would_take(html: str) -> None:
    assert "Accepted, but not proved" in html
    assert "about 381 tiles" in html
    assert "Gram flips increase from 0 to 3" in html


def test_a_proved_report_says_so(report: dict[str, Any]) -> None:
    report["headline"]["proved"] = True
    assert "Accepted and proved." in render_html(report).decode()
    assert "**Proved**" in render_card(report).decode()


def test_a_report_without_an_accepted_candidate_can_be_read(report: dict[str, Any]) -> None:
    report |= {"chosen": None, "comparison": None, "calibration": None, "review": None, "slides": None, "decode": None}
    report |= {"sensitivity": [], "steps": report["steps"][:1]}
    report["candidates"] = [{**c, "accepted": False, "chosen": False, "front": None} for c in report["candidates"]]
    report["errors"] = [{**e, "artifact": None, "new": False} for e in report["errors"]]
    report["confusion"]["artifact"] = None
    report["pruning"] = {"skipped": "pruning was not asked for", "networks": []}
    report["headline"] |= {"artifact_accuracy": None, "size_ratio": None, "speed_ratio": None}
    html = render_html(report).decode()
    assert "Nothing was accepted" in html
    assert "pruning was not asked for" in html


def test_a_card_fits_on_a_page_and_says_what_the_artifact_is_not(report: dict[str, Any]) -> None:
    card = render_card(report).decode()
    assert len(card.splitlines()) < 40
    assert "For research until" in card
    assert all(name in card for name in NAMES)
    assert "Not proved." in card
