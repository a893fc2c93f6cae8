"""A shadow's call beside production's: the worst difference is the one that is told."""

from __future__ import annotations

from itertools import product

import pytest

from gramserve.calls import Call, Finding, Outcome, ReviewReason
from gramserve.samples import LABEL_ROLES, LABELS
from gramserve.store.manifest import Label
from gramserve.store.shadows import ShadowTally, Verdict
from inference_svc.compare import compare

ROLES = [Label(name=name, **LABEL_ROLES[name]) for name in LABELS]
NOTHING, UNREAD = Outcome.NO_ORGANISM_SEEN, Outcome.UNASSESSABLE


def call(*labels: str, outcome: Outcome | None = None, review: bool = False) -> Call:
    findings = tuple(Finding(label, 0.9, 1, ()) for label in labels)
    reasons = (ReviewReason.LOW_CONFIDENCE,) if review else ()
    return Call(outcome or (Outcome.ORGANISMS_SEEN if labels else NOTHING), findings, 9, reasons)


@pytest.mark.parametrize(
    ("production", "candidate", "verdict"),
    [
        (call("GNR"), call("GNR"), Verdict.SAME),
        (call(), call(), Verdict.SAME),
        (call("GNR"), call("GNR", review=True), Verdict.REVIEW_DIFFERS),
        (call("GPC_CLUSTERS"), call("GPC_PAIRS_CHAINS"), Verdict.FINDINGS_DIFFER),
        (call("GPR"), call("GPR", "GPC_CLUSTERS"), Verdict.FINDINGS_DIFFER),
        (call(), call("GNR"), Verdict.OUTCOME_DIFFERS),
        (call(), call(outcome=UNREAD), Verdict.OUTCOME_DIFFERS),
        (call("GNR"), call(), Verdict.MISSED_ORGANISM),
        (call("GNR"), call(outcome=UNREAD), Verdict.MISSED_ORGANISM),
        (call("GNR", "GPC_CLUSTERS"), call("GPC_CLUSTERS"), Verdict.MISSED_ORGANISM),
        (call("GNR"), call("GPR"), Verdict.GRAM_FLIP),
        (call("GPR"), call("GNR", review=True), Verdict.GRAM_FLIP),
        (call("NEW"), call("GNR"), Verdict.GRAM_FLIP),
    ],
)
def test_the_verdict_names_the_worst_difference(production: Call, candidate: Call, verdict: Verdict) -> None:
    assert compare(production, candidate, ROLES) is verdict


def test_only_equal_findings_agree_and_only_very_major_verdicts_lose_a_gram_reaction() -> None:
    calls = [call(), call("GNR"), call("GPR"), call("GNR", "GPR"), call("GPC_CLUSTERS"), call(outcome=UNREAD)]
    for one, other in product(calls, calls):
        verdict = compare(one, other, ROLES)
        assert verdict.agrees is (one == other)
        assert verdict.very_major is bool(_grams(one) - _grams(other))


def _grams(one: Call) -> set[str | None]:
    return {role.gram for role in ROLES for finding in one.findings if finding.label == role.name}


def test_tallies_add_up() -> None:
    one = ShadowTally({"SAME": 2, "FAILED": 1}, 1.0, 0.5)
    total = one + ShadowTally({"SAME": 3}, 2.0, 0.25) + ShadowTally()
    assert total == ShadowTally({"SAME": 5, "FAILED": 1}, 3.0, 0.75)
    assert total.count(Verdict.SAME, Verdict.GRAM_FLIP) == 5
    assert ShadowTally.from_json(total.to_json()) == total
