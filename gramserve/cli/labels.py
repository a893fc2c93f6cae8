"""The labels file as the contract says it."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import ValidationError

from gramserve.errors import InvalidInput, Reason
from gramserve.store.manifest import Label as Role
from gramserve.v1.model_pb2 import Label

_KINDS = {"background": Label.KIND_BACKGROUND, "organism": Label.KIND_ORGANISM}
_GRAMS = {None: Label.GRAM_UNSPECIFIED, "positive": Label.GRAM_POSITIVE, "negative": Label.GRAM_NEGATIVE}


def read_labels(path: Path) -> list[Label]:
    """The labels of a LABELS.yaml in the checkpoint's order. Raises InvalidInput (INVALID_LABELS), OSError.

    Only what cannot be said in the contract is refused here; the optimizer checks the rest.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        roles = [Role.model_validate(entry) for entry in document["labels"]]
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(step) for step in first["loc"])
        raise _invalid(path, f"{where}: {first['msg']}" if where else first["msg"]) from None
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        raise _invalid(path, "it must hold a list under the key `labels`") from None
    return [
        Label(
            name=role.name,
            kind=_KINDS[role.kind],
            gram=_GRAMS[role.gram],
            morphology=role.morphology or "",
            arrangement=role.arrangement or "",
        )
        for role in roles
    ]


def _invalid(path: Path, what: str) -> InvalidInput:
    return InvalidInput(Reason.INVALID_LABELS, f"the labels in {path} cannot be used: {what}")
