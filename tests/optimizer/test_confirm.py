"""The choice among accepted candidates and its confirmation on the locked test split, on hand-made trials."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gramserve.store.manifest import EngineSettings
from optimizer_svc.acceptance import Rules, compare
from optimizer_svc.architecture import InputSpec
from optimizer_svc.candidates import Candidate
from optimizer_svc.checkpoint import Checkpoint
from optimizer_svc.confirm import confirm
from optimizer_svc.evaluate import Trial, choose
from optimizer_svc.findings import why_not
from optimizer_svc.ingest import Ingested
from optimizer_svc.latency import Latency
from optimizer_svc.networks import Network
from optimizer_svc.spec import OptimizationSpec
from optimizer_svc.tiles import TileSet
from tests.artifacts import COLOURS, coloured, tiny_model
from tests.optimizer.conftest import LABELS

TARGETS = np.repeat(np.arange(5), 100).astype(np.int64)
ENGINE = EngineSettings(name="onnxruntime")


def trial(name: str, *, ms: float, size: int, spread: float = 0.02, wrong: int = 0, failure: str = "") -> Trial:
    network = Network(name, None, 1, 1, {}, {}, "")  # type: ignore[arg-type]
    candidate = Candidate(network, "fp32", ENGINE, bytes(size), failure, "dynamo", 0.0)
    if failure:
        return Trial(candidate, None, None, None)
    called = TARGETS.copy()
    called[200 : 200 + wrong] = 3
    comparison = compare(TARGETS, called, TARGETS, LABELS, Rules(margin=0.02, recall_margin=0.05))
    latency = Latency(ms / 1000, ms / 1000 * (1 - spread), ms / 1000 * (1 + spread), 30)
    return Trial(candidate, np.eye(5, dtype=np.float32)[called], comparison, latency)


def chosen(*trials: Trial) -> str:
    found = choose(trials)
    return found.candidate.network.name if found else ""


def test_the_fastest_accepted_candidate_is_chosen() -> None:
    assert (
        chosen(trial("slow", ms=3, size=10), trial("fast", ms=1, size=20), trial("worse", ms=0.5, size=5, wrong=90))
        == "fast"
    )


def test_among_equally_fast_candidates_the_smallest_is_chosen() -> None:
    assert chosen(trial("big", ms=1.00, size=20), trial("small", ms=1.01, size=10)) == "small"


def test_a_candidate_that_could_not_be_made_is_never_chosen() -> None:
    assert chosen(trial("broken", ms=1, size=0, failure="cannot quantize")) == ""
    assert chosen() == ""


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (trial("a", ms=1, size=1), ""),
        (trial("a", ms=1, size=1, failure="two runs give different numbers"), "two runs give different numbers"),
        (trial("a", ms=1, size=1, wrong=90), "accuracy falls by 18.00%"),
        (trial("a", ms=1, size=1, wrong=5), "not proved with 500 tiles: accuracy, recall of GPC_CLUSTERS"),
    ],
)
def test_a_candidate_that_is_not_accepted_says_why(made: Trial, says: str) -> None:
    assert why_not(made, LABELS).startswith(says)
    assert bool(why_not(made, LABELS)) == (not made.accepted)


class NearestColour(nn.Module):
    """The torch twin of `tiny_model`: its logits for pixels in 0..1."""

    def forward(self, pixels: Tensor) -> Tensor:
        colours = torch.tensor([COLOURS[label.name] for label in LABELS]) / 255
        return -60 * ((pixels.mean(dim=(2, 3))[:, None] - colours) ** 2).sum(dim=2)


def ingested(*, test: bool) -> Ingested:
    tiles = np.stack([coloured(label.name, 32, 32) for label in LABELS for _ in range(4)])
    targets = np.repeat(np.arange(5), 4).astype(np.int64)
    checkpoint = Checkpoint(NearestColour(), "x", "", InputSpec(32, (0.0,) * 3, (1.0,) * 3), 0, 0, ())
    split = TileSet(tiles, targets)
    return Ingested(checkpoint, None, None, split, split, split if test else None, {})  # type: ignore[arg-type]


def runnable(name: str, order: list[str], *, accepted: bool = True) -> Trial:
    made = trial(name, ms=1, size=1, wrong=0 if accepted else 90)
    candidate = Candidate(made.candidate.network, "fp32", ENGINE, tiny_model(order, 32), "", "dynamo", 0.0)
    return Trial(candidate, made.logits, made.comparison, made.latency)


NAMES = [label.name for label in LABELS]
SPEC = OptimizationSpec(Path("c"), "x", LABELS, Path("d"), "m", margin=0.02)
GOOD = runnable("original", NAMES)
# Right on val, they say, but on test it takes Gram-negative rods for Gram-positive ones.
BAD = runnable("pruned", [NAMES[0], NAMES[4], NAMES[2], NAMES[3], NAMES[1]])


def test_a_choice_that_holds_on_the_test_split_is_confirmed() -> None:
    taken, comparison, note = confirm([GOOD], [GOOD, BAD], SPEC, ingested(test=True))
    assert taken is GOOD
    assert comparison is not None
    assert comparison.accepted
    assert note == "The test split was used once. It confirms original fp32 onnxruntime."


def test_a_choice_that_the_test_split_refutes_gives_way_to_the_exported_checkpoint() -> None:
    taken, comparison, note = confirm([BAD], [BAD, GOOD], SPEC, ingested(test=True))
    assert taken is GOOD
    assert comparison is not None
    assert comparison.accepted
    assert "refutes pruned fp32" in note
    assert "Gram flips increase from 0 to 8" in note


def test_the_first_of_a_shortlist_that_the_test_split_confirms_is_taken_with_wider_intervals() -> None:
    wider = runnable("wider", NAMES)
    taken, comparison, note = confirm([BAD, wider, GOOD], [BAD, wider, GOOD], SPEC, ingested(test=True))
    assert taken is wider
    assert comparison is not None
    _, alone, _ = confirm([wider], [wider], SPEC, ingested(test=True))
    assert alone is not None
    assert comparison.difference.low < alone.difference.low
    assert note.startswith("The test split was used once, for 3 candidates named before. It refutes pruned fp32")
    assert note.endswith("It confirms wider fp32 onnxruntime.")


def test_the_test_split_is_not_read_for_more_candidates_than_were_named() -> None:
    taken, _, note = confirm([BAD, BAD, BAD, GOOD], [BAD], SPEC, ingested(test=True))
    assert taken is None
    assert note.count("refutes") == 3


def test_without_an_accepted_export_a_refuted_choice_leaves_nothing() -> None:
    refused = runnable("original", NAMES, accepted=False)
    taken, comparison, note = confirm([BAD], [BAD, refused], SPEC, ingested(test=True))
    assert taken is None
    assert comparison is not None
    assert not comparison.accepted
    assert "refutes" in note


def test_an_exported_checkpoint_that_the_test_split_refutes_too_is_not_taken() -> None:
    other = runnable("original", [NAMES[0], NAMES[4], NAMES[2], NAMES[3], NAMES[1]])
    taken, comparison, note = confirm([BAD], [BAD, other], SPEC, ingested(test=True))
    assert taken is None
    assert comparison is not None
    assert not comparison.accepted
    assert "The exported checkpoint differs there, too: " in note


def test_without_a_test_split_the_choice_stands_and_the_report_says_that_it_is_not_confirmed() -> None:
    taken, comparison, note = confirm([GOOD], [GOOD], SPEC, ingested(test=False))
    assert (taken, comparison) == (GOOD, None)
    assert "not confirmed" in note
    assert confirm([], [], SPEC, ingested(test=True)) == (None, None, "")
