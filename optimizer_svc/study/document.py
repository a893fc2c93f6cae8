"""What a study found, as the one JSON document that page and table are made from."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from optimizer_svc.environment import cpu, packages
from optimizer_svc.study.spec import StudySpec

FORMAT = 1
COLUMNS = (
    *("architecture", "family", "network", "recipe", "engine", "macs", "parameters", "bytes", "size_ratio"),
    *("images_per_s", "images_per_s_low", "images_per_s_high", "speed_up"),
    *("accuracy", "accuracy_low", "accuracy_high", "difference", "difference_low", "difference_high"),
    *("missed", "gram_flips", "new_very_major", "snr_db", "failure"),
)


def document(spec: StudySpec, results: Sequence[Mapping[str, Any]], created: datetime) -> dict[str, Any]:
    """study.json: JSON-ready, without paths, file names or pixels; `results` are those of `study_architecture`."""
    return {
        "format": FORMAT,
        "created": created.isoformat(timespec="seconds"),
        "architectures": [dict(result) for result in results],
        "waiting": list(spec.architectures[len(results) :]),
        "scales": _scales(results),
        "labels": [label.model_dump(mode="json", exclude_none=True) for label in spec.labels],
        "settings": spec.settings(),
        "environment": {"packages": packages(), "cpu": cpu()},
    }


def table(written: Mapping[str, Any]) -> bytes:
    """study.csv: one line for every checkpoint in torch eager and every candidate; fractions, not percent."""
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(_lines(written))
    return file.getvalue().encode()


def studied(written: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The architectures that were studied to the end."""
    return [a for a in written["architectures"] if not a["failure"]]


def fastest(architecture: Mapping[str, Any], network: str, recipe: str) -> dict[str, Any] | None:
    """The candidate of a network and recipe on the engine that runs it fastest; None where none works."""
    rows = [r for r in architecture["rows"] if (r["network"], r["recipe"]) == (network, recipe) and not r["failure"]]
    return max(rows, key=lambda row: row["images_per_s"], default=None)


def _scales(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All comparisons of scales per channel with one per tensor, and how often each was more accurate."""
    rows = [
        {"architecture": result["architecture"], "family": result["family"], **row}
        for result in results
        if not result["failure"]
        for row in result["channel_against_tensor"]
    ]
    estimates = [row["difference"]["estimate"] for row in rows]
    return {
        "rows": rows,
        "channel_better": sum(e > 0 for e in estimates),
        "tensor_better": sum(e < 0 for e in estimates),
        "equal": sum(e == 0 for e in estimates),
        # Beyond chance: the whole interval lies on one side.
        "channel_clearly": sum(row["difference"]["low"] > 0 for row in rows),
        "tensor_clearly": sum(row["difference"]["high"] < 0 for row in rows),
    }


def _lines(written: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for found in written["architectures"]:
        if found["failure"]:
            yield {"architecture": found["architecture"], "failure": found["failure"]}
            continue
        about = {"architecture": found["architecture"], "family": found["family"]}
        checkpoint = found["checkpoint"]
        yield {
            **about,
            "network": "checkpoint",
            "recipe": "fp32",
            "engine": "torch eager",
            "speed_up": 1,
            "size_ratio": 1,
            **checkpoint,
            **_very_major(checkpoint),
        }
        networks = {network["name"]: network for network in found["networks"]}
        for row in found["rows"]:
            network = networks[row["network"]]
            line = {**about, **row, "macs": network["macs"], "parameters": network["parameters"]}
            if not row["failure"]:
                difference = row["difference"]
                line |= {"difference": difference["estimate"], **_very_major(row)}
                line |= {"difference_low": difference["low"], "difference_high": difference["high"]}
            yield line


def _very_major(row: Mapping[str, Any]) -> dict[str, int]:
    return {"missed": row["very_major"][0], "gram_flips": row["very_major"][1]}
