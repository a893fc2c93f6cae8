from __future__ import annotations

import copy
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from optimizer_svc.report import render_card, render_html
from tests.optimizer.conftest import LABELS

NAMES = [label.name for label in LABELS]


def difference(tiles: int, margin: float, *, proved: bool) -> dict[str, Any]:
    facts = {"tiles": tiles, "gained": 0, "lost": 0, "estimate": 0.0, "low": -0.037, "high": 0.037}
    return {**facts, "margin": margin, "proved": proved}


def candidate(name: str, **facts: Any) -> dict[str, Any]:
    network, recipe = name.split()
    return {
        "name": name,
        "network": network,
        "recipe": recipe,
        "title": recipe,
        "engine": {"name": "onnxruntime"},
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


@pytest.fixture
def report() -> dict[str, Any]:
    chosen = candidate("original int8_channel_core", accepted=True, chosen=True)
    broken = {**candidate("pruned fp32", why_not="cannot quantize"), "accuracy": None, "images_per_s": None}
    table = [[20 if i == j else 0 for j in range(5)] for i in range(5)]
    table[1][0] = 1
    bins = [{"tiles": 90, "confidence": 0.97, "accuracy": 0.99}, {"tiles": 12, "confidence": 0.6, "accuracy": 0.5}]
    return {
        "model": "gram <script>alert(1)</script>",
        "created": "2026-11-23T12:00:00+00:00",
        "elapsed_s": 300.0,
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
        "candidates": [chosen, broken, candidate("pruned int8_tensor_wide", why_not="Gram flips increase from 0 to 3")],
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
        "test": None,
        "test_note": "There is no test split: the choice made on val was not confirmed on other tiles.",
        "calibration": {
            "temperature": 0.7,
            "before": {"ece": 0.08, "nll": 0.2, "bins": bins},
            "after": {"ece": 0.03, "nll": 0.1, "bins": bins},
        },
        "pruning": {
            "skipped": "",
            "networks": [
                {"name": "original", "macs": 3e8, "parameters": 2_000_000},
                {
                    "name": "pruned",
                    "macs": 1.5e8,
                    "parameters": 1_000_000,
                    "ratio": 0.25,
                    "epochs": [[1, 0.5, 0.8, 0.4], [2, 0.4, 0.9, 0.3]],
                },
            ],
        },
        "steps": [
            {
                "name": "checkpoint",
                "what": "torch eager",
                "ms": 35.0,
                "images_per_s": 28.0,
                "bytes": 8_900_000,
                "accuracy": 0.99,
            }
        ],
        "rules": {"margin": 0.01, "recall_margin": 0.05, "allow_unproved": True},
        "data": {
            "splits": [{"name": "val", "fingerprint": "cd" * 32, "tiles": dict.fromkeys(NAMES, 20)}],
            "notes": ["There is no groups.csv."],
            "preprocessing": {"tiling": "grid", "tile_px": 500, "max_single_px": 750, "input_px": 224},
        },
        "environment": {"packages": {"torch": "2"}, "cpu": {"name": "A CPU", "cores": 2, "flags": ["avx512_vnni"]}},
        "settings": {"seed": 0},
    }


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


def read(html: bytes) -> Page:
    page = Page()
    page.feed(html.decode())
    return page


def test_a_report_loads_nothing_and_runs_nothing(report: dict[str, Any]) -> None:
    html = render_html(report)
    page = read(html)
    assert page.loads == []
    assert not {"script", "img", "link", "iframe"} & set(page.tags)
    assert b"&lt;script&gt;" in html
    assert not re.search(rb"url\((?!#)", html)
    assert page.tags.count("svg") == 5


def test_the_ids_of_the_plots_do_not_clash(report: dict[str, Any]) -> None:
    ids = read(render_html(report)).ids
    assert len(ids) == len(set(ids))


def test_plots_take_their_colours_from_the_page(report: dict[str, Any]) -> None:
    html = render_html(report).decode()
    assert "prefers-color-scheme: dark" in html
    for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL):
        assert not re.findall(r"#0[1-6]0[1-6]0[1-6]", svg)
        assert "var(--ink)" in svg


def test_a_report_is_the_same_for_the_same_findings(report: dict[str, Any]) -> None:
    assert render_html(report) == render_html(copy.deepcopy(report))


def test_a_report_says_that_an_acceptance_was_not_proved_and_what_it_would_take(report: dict[str, Any]) -> None:
    html = render_html(report).decode()
    assert "Accepted, but not proved" in html
    assert "about 381 tiles" in html
    assert "Gram flips increase from 0 to 3" in html


def test_a_proved_report_says_so(report: dict[str, Any]) -> None:
    report["headline"]["proved"] = True
    assert "Accepted and proved." in render_html(report).decode()
    assert "**Proved**" in render_card(report).decode()


def test_a_report_without_an_accepted_candidate_can_be_read(report: dict[str, Any]) -> None:
    report |= {"chosen": None, "comparison": None, "calibration": None}
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
