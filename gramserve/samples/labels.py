"""The five calls of the synthetic fields and their clinical roles, in the order a model is trained on them."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Final

import yaml

_GPC = {"kind": "organism", "gram": "positive", "morphology": "cocci"}

LABEL_ROLES: Final = MappingProxyType(
    {
        "BACKGROUND": {"kind": "background"},
        "GNR": {"kind": "organism", "gram": "negative", "morphology": "bacilli"},
        "GPC_CLUSTERS": {**_GPC, "arrangement": "clusters"},
        "GPC_PAIRS_CHAINS": {**_GPC, "arrangement": "pairs_chains"},
        "GPR": {"kind": "organism", "gram": "positive", "morphology": "bacilli"},
    }
)
LABELS: Final = tuple(LABEL_ROLES)
BACKGROUND: Final = "BACKGROUND"
ORGANISMS: Final = tuple(label for label in LABELS if label != BACKGROUND)


def write_labels_yaml(path: Path) -> None:
    """Writes the LABELS.yaml that goes with a model trained on these fields (labels in model order)."""
    entries = [{"name": name, **role} for name, role in LABEL_ROLES.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"labels": entries}, sort_keys=False), encoding="utf-8")
