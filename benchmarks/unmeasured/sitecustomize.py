"""Loaded by every Python that has this folder on its path: gramserve then counts, times and shows nothing.

What `benchmarks.metrics_cost` compares the stack with. Nothing else differs: the same calls are made, and do nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any


def _nothing(*_: Any, **__: Any) -> None:
    """What a metric does here."""


def _silence(module: ModuleType) -> None:
    if module.__name__ == "gramserve.metrics":
        for name in ("count", "set", "observe", "forget"):
            setattr(module.Metrics, name, _nothing)
    elif module.__name__ == "inference_svc.served":
        for name in ("loaded", "serving", "called"):
            setattr(module.Served, name, _nothing)
    else:
        nothing = module.Tally({}, {})
        module.tally = lambda probabilities, labels: nothing  # type: ignore[attr-defined]


class _Silencer(MetaPathFinder):
    """Silences modules as they are imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in {"gramserve.metrics", "inference_svc.served", "gramserve.runtime.tally"}:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def silenced(module: ModuleType) -> None:
            execute(module)
            _silence(module)

        spec.loader.exec_module = silenced  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, _Silencer())
