"""What the model versions of this worker said, as metrics: what an operator sees of calls, reviews and drift."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from gramserve.calls import BANDS, ReviewReason
from gramserve.metrics import Metrics
from inference_svc.protocol import Finished, VersionLoaded

MOST_VERSIONS = 16
"""Versions with series of their own, those used last: a worker that runs for months shows no more."""

MOST_LABELS = 64
"""Labels of one version that are shown: what a child says is bounded here."""

# Outcomes that are shown beside the labels of findings.
_ALONE = frozenset({"NO_ORGANISM_SEEN", "UNASSESSABLE", "MIXED_ORGANISMS_SEEN"})
_REASONS = frozenset(reason.value for reason in ReviewReason)
_BANDS = frozenset(BANDS)


class Served:
    """Hears of versions that children load and of slides that they call; shows `most` of them, or all that are loaded.

    All series of a version exist, at 0, from when it is loaded: what appears with its first count is no increase.
    """

    def __init__(self, metrics: Metrics, most: int = MOST_VERSIONS) -> None:
        self._metrics = metrics
        self._most = most
        self._known: OrderedDict[str, dict[str, str]] = OrderedDict()
        self._serving: set[tuple[str, str]] = set()
        self._engines: dict[str, set[str]] = {}
        self._labels: dict[str, set[str]] = {}
        for reason in ReviewReason:
            metrics.expect("review_reasons", reason=reason.value)

    def loaded(self, told: VersionLoaded) -> None:
        """A child has loaded a version."""
        for step, seconds in told.load_s.items():
            self._metrics.observe("model_load_seconds", seconds, step=step)
        names = self._names(told.version)
        self._engines.setdefault(told.version, set()).add(told.engine)
        for name in ("slides_called", "slides_for_review"):
            self._metrics.expect(name, **names)
        for call in (*_ALONE, *self._admitted(told.version, told.organisms)):
            self._metrics.expect("calls", **names, call=call)
        for label in self._admitted(told.version, told.labels):
            self._metrics.expect("tile_calls", **names, label=label)
        for band in BANDS:
            self._metrics.expect("tile_scores", **names, band=band)
        for label in self._admitted(told.version, told.reference_labels):
            self._metrics.set("reference_tile_calls", told.reference_labels[label], **names, label=label)
        for band in told.reference_bands.keys() & _BANDS:
            self._metrics.set("reference_tile_scores", told.reference_bands[band], **names, band=band)

    def serving(self, versions: Iterable[str]) -> None:
        """These are the versions that children have loaded now, all others are not."""
        now = {(version, engine) for version in versions for engine in self._engines.get(version, ())}
        for version, engine in self._serving - now:
            self._metrics.forget("model_loaded", **_split(version), engine=engine)
        for version, engine in now - self._serving:
            self._metrics.set("model_loaded", 1, **_split(version), engine=engine)
        gone = {version for version, _ in self._serving} - {version for version, _ in now}
        for version in gone:
            del self._engines[version]
            for name in ("reference_tile_calls", "reference_tile_scores"):
                self._metrics.forget(name, **_split(version))
        self._serving = now

    def called(self, version: str, finished: Finished) -> None:
        """A slide got a call of this version."""
        metrics, names, call = self._metrics, self._names(version), finished.call
        metrics.count("slides_called", 1, **names)
        reasons = call.get("review_reasons", ())
        if reasons:
            metrics.count("slides_for_review", 1, **names)
            for reason in _REASONS.intersection(reasons):
                metrics.count("review_reasons", reason=reason)
        findings = call.get("findings", ())
        outcome = call.get("outcome", "")
        if outcome in _ALONE:
            metrics.count("calls", 1, **names, call=outcome)
        for label in self._admitted(version, [finding["label"] for finding in findings]):
            metrics.count("calls", 1, **names, call=label)
        if findings:
            metrics.observe("call_confidence", findings[0]["probability"], **names)
        for label in self._admitted(version, finished.tile_labels):
            metrics.count("tile_calls", finished.tile_labels[label], **names, label=label)
        for band in finished.tile_bands.keys() & _BANDS:
            metrics.count("tile_scores", finished.tile_bands[band], **names, band=band)

    def _names(self, version: str) -> dict[str, str]:
        """The labels of a version; shows nothing more of the one not used for longest when there are too many."""
        names = self._known.get(version)
        if names is None:
            names = self._known[version] = _split(version)
            while len(self._known) > self._most and (oldest := self._oldest(version)):
                self._metrics.forget(**self._known.pop(oldest))
                self._labels.pop(oldest, None)
        else:
            self._known.move_to_end(version)
        return names

    def _admitted(self, version: str, labels: Iterable[str]) -> list[str]:
        """Those of `labels` that are shown: all of an artifact that has no more than MOST_LABELS."""
        known = self._labels.setdefault(version, set())
        for label in labels:
            if len(known) < MOST_LABELS:
                known.add(label)
        return [label for label in labels if label in known]

    def _oldest(self, newest: str) -> str | None:
        """The version used least recently of those that no child has loaded."""
        return next((version for version in self._known if version != newest and version not in self._engines), None)


def _split(version: str) -> dict[str, str]:
    """The labels of "models/m/versions/3"."""
    _, model, _, number = version.split("/")
    return {"model": model, "version": number}
