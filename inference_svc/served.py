"""What the model versions of this worker said, as metrics: what an operator sees of calls, reviews and drift."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

from gramserve.calls import BANDS, ReviewReason
from gramserve.metrics import Metrics
from inference_svc.protocol import Finished, VersionLoaded

MOST_VERSIONS = 16
"""Versions with series of their own, those used last: a worker that runs for months shows no more."""

MOST_LABELS = 64
"""Labels of one version that are shown: what a child says is bounded here."""

MOST_ENGINES = 4
"""Engines of one version that are shown, as MOST_LABELS."""

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
        self._known: OrderedDict[str, _Shown] = OrderedDict()
        self._serving: set[tuple[str, str]] = set()
        self._engines: dict[str, set[str]] = {}
        for reason in ReviewReason:
            metrics.expect("review_reasons", reason=reason.value)

    def loaded(self, told: VersionLoaded) -> None:
        """A child has loaded a version."""
        for step, seconds in told.load_s.items():
            self._metrics.observe("model_load_seconds", seconds, step=step)
        shown = self._shown(told.version)
        engines = self._engines.setdefault(told.version, set())
        if len(engines) < MOST_ENGINES:
            engines.add(told.engine)
        for label in shown.admitted(told.organisms):
            shown.call(label)
        for label in shown.admitted(told.labels):
            shown.tiles(label)
        for label in shown.admitted(told.reference_labels):
            self._metrics.set("reference_tile_calls", told.reference_labels[label], **shown.names, label=label)
        for band in told.reference_bands.keys() & _BANDS:
            self._metrics.set("reference_tile_scores", told.reference_bands[band], **shown.names, band=band)

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
        shown, call = self._shown(version), finished.call
        shown.called.inc()
        if reasons := call.get("review_reasons"):
            shown.for_review.inc()
            for reason in _REASONS.intersection(reasons):
                self._metrics.count("review_reasons", reason=reason)
        if (outcome := call.get("outcome")) in _ALONE:
            shown.call(outcome).inc()
        if findings := call.get("findings"):
            shown.confidence.observe(findings[0]["probability"])
            for label in shown.admitted([finding["label"] for finding in findings]):
                shown.call(label).inc()
        for label in shown.admitted(finished.tile_labels):
            shown.tiles(label).inc(finished.tile_labels[label])
        for band in finished.tile_bands.keys() & _BANDS:
            shown.bands[band].inc(finished.tile_bands[band])

    def _shown(self, version: str) -> _Shown:
        """The series of a version; shows nothing more of the one not used for longest when there are too many."""
        shown = self._known.get(version)
        if shown is None:
            shown = self._known[version] = _Shown(self._metrics, version)
            while len(self._known) > self._most and (oldest := self._oldest(version)):
                self._metrics.forget(**self._known.pop(oldest).names)
        else:
            self._known.move_to_end(version)
        return shown

    def _oldest(self, newest: str) -> str | None:
        """The version used least recently of those that no child has loaded."""
        return next((version for version in self._known if version != newest and version not in self._engines), None)


class _Shown:
    """The series of one version, looked up once: a slide counts in six of them."""

    def __init__(self, metrics: Metrics, version: str) -> None:
        self._metrics = metrics
        self._labels: set[str] = set()
        self.names = _split(version)
        self.called = metrics.series("slides_called", **self.names)
        self.for_review = metrics.series("slides_for_review", **self.names)
        self.confidence = metrics.series("call_confidence", **self.names)
        self.bands = {band: metrics.series("tile_scores", **self.names, band=band) for band in BANDS}
        self._calls = {call: metrics.series("calls", **self.names, call=call) for call in _ALONE}
        self._tiles: dict[str, Any] = {}

    def admitted(self, labels: Iterable[str]) -> list[str]:
        """Those of `labels` that are shown: all of an artifact that has no more than MOST_LABELS."""
        for label in labels:
            if len(self._labels) < MOST_LABELS:
                self._labels.add(label)
        return [label for label in labels if label in self._labels]

    def call(self, call: str) -> Any:
        """The counter of slides with an admitted label or an outcome of `_ALONE`."""
        found = self._calls.get(call)
        if found is None:
            found = self._calls[call] = self._metrics.series("calls", **self.names, call=call)
        return found

    def tiles(self, label: str) -> Any:
        """The counter of tiles with an admitted label."""
        found = self._tiles.get(label)
        if found is None:
            found = self._tiles[label] = self._metrics.series("tile_calls", **self.names, label=label)
        return found


def _split(version: str) -> dict[str, str]:
    """The labels of "models/m/versions/3"."""
    _, model, _, number = version.split("/")
    return {"model": model, "version": number}
