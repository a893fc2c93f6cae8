"""A study for people: one HTML page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from optimizer_svc.plots import study as plots
from optimizer_svc.report import environment
from optimizer_svc.study.document import fastest, studied


def render_page(written: Mapping[str, Any]) -> bytes:
    """The self-contained study.html of a `document`: no script, nothing loaded from elsewhere."""
    groups = list(_groups(written))
    shown = {
        "plot": _plots(written, groups),
        "kinds": [(kind.key, kind.title) for kind in plots.KINDS],
        "groups": groups,
        "engines": _engines(written),
        "cells": {(g.architecture, g.network, k.key): _cells(written, g, k.key) for g in groups for k in plots.KINDS},
        "leaders": _leaders(groups),
    }
    return environment().get_template("study.html.j2").render(s=written, **shown).encode()


def _plots(written: Mapping[str, Any], groups: list[plots.Group]) -> dict[str, str]:
    drawn = {}
    if any(row is not None for group in groups for row in group.rows.values()):
        drawn = {"scatter": plots.scatter(groups), "speed_up": plots.speed_up(groups), "sizes": plots.sizes(groups)}
    if written["scales"]["rows"]:
        drawn["scales"] = plots.scales(written["scales"]["rows"])
    return {name: _coloured(text) for name, text in drawn.items()}


def _coloured(text: str) -> str:
    for number, colour in enumerate(plots.COLOURS):
        text = text.replace(colour, f"var(--c{number})")
    return text


def _recipes(found: Mapping[str, Any], network: str) -> dict[str, str]:
    """The recipe of each kind of column for a network."""
    return {
        plots.FP32.key: "fp32",
        plots.TENSOR.key: "int8_tensor_core",
        plots.CHANNEL.key: "int8_channel_core",
        plots.BEST.key: found["best_recipes"][network],
    }


def _groups(written: Mapping[str, Any]) -> Iterator[plots.Group]:
    for found in studied(written):
        for network in found["networks"]:
            name = network["name"]
            rows = {kind: fastest(found, name, recipe) for kind, recipe in _recipes(found, name).items()}
            pruned = name != found["networks"][0]["name"]
            yield plots.Group(found["architecture"], found["family"], name, pruned, found["checkpoint"], rows)


def _engines(written: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(row["engine"] for found in studied(written) for row in found["rows"]))


def _cells(written: Mapping[str, Any], group: plots.Group, kind: str) -> dict[str, Any]:
    """What the table says of one kind: its recipe in words, its rows by engine, and why there is none."""
    found = next(a for a in studied(written) if a["architecture"] == group.architecture)
    recipe = _recipes(found, group.network)[kind]
    rows = [row for row in found["rows"] if (row["network"], row["recipe"]) == (group.network, recipe)]
    return {
        "title": rows[0]["title"] if rows else "",
        "by_engine": {row["engine"]: row for row in rows if not row["failure"]},
        "failures": sorted({f"{row['engine']}: {row['failure']}" for row in rows if row["failure"]}),
    }


def _leaders(groups: list[plots.Group]) -> list[dict[str, Any]]:
    """The fastest int8 candidates that do not fall below their checkpoint by more than a point, best first."""
    rows = [
        {"architecture": group.architecture, "network": group.network, **row}
        for group in groups
        for kind, row in group.rows.items()
        if row is not None and kind != plots.FP32.key and row["difference"]["estimate"] >= -0.01
    ]
    first: dict[str, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda r: -r["images_per_s"]):
        first.setdefault(row["architecture"], row)
    return list(first.values())
