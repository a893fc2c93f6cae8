"""How a shadow's call of a slide differs from production's, the worst difference first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gramserve.calls import Call
from gramserve.store.manifest import Label
from gramserve.store.shadows import Verdict


def compare(production: Call, candidate: Call, labels: Sequence[Label]) -> Verdict:
    """The verdict on `candidate`; `labels` are those of both versions.

    A Gram reaction that production reports and the candidate does not is an organism missed, or, where the candidate
    reports one that production does not, a Gram flip: either would be treated with the wrong drug.
    """
    roles = {label.name: label.gram or label.name for label in labels}
    ours, theirs = _grams(production, roles), _grams(candidate, roles)
    if ours - theirs:
        return Verdict.GRAM_FLIP if theirs - ours else Verdict.MISSED_ORGANISM
    if production.outcome != candidate.outcome:
        return Verdict.OUTCOME_DIFFERS
    if _labels(production) != _labels(candidate):
        return Verdict.FINDINGS_DIFFER
    return Verdict.SAME if production.review_required == candidate.review_required else Verdict.REVIEW_DIFFERS


def _labels(call: Call) -> set[str]:
    return {finding.label for finding in call.findings}


def _grams(call: Call, roles: Mapping[str, str]) -> set[str]:
    return {roles.get(label, label) for label in _labels(call)}
