"""The labels file: which output of the checkpoint is which organism class, with its clinical roles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from gramserve.errors import InvalidInput, Reason
from gramserve.store.manifest import Label

MAX_LABELS = 1000
MAX_FILE_BYTES = 1_000_000
_MAX_NODES = 20 * MAX_LABELS
_MAX_SCALAR = 1000


def read_labels(path: Path) -> tuple[Label, ...]:
    """The labels of a LABELS.yaml, in the order of the checkpoint's outputs; InvalidInput INVALID_LABELS."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise _invalid("the labels file is larger than a labels file can be")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise _invalid("the labels file cannot be read as UTF-8 text") from None
    return parse_labels(text)


def parse_labels(text: str) -> tuple[Label, ...]:
    """The labels in `text` (YAML, one mapping with the key `labels`); InvalidInput INVALID_LABELS naming each fault."""
    try:
        document = _load(text)
    except (yaml.YAMLError, RecursionError, ValueError, LookupError, AttributeError, TypeError, ArithmeticError):
        # PyYAML checks little of what follows a tag such as !!int.
        raise _invalid("the labels file is not YAML") from None
    if not isinstance(document, dict) or set(document) != {"labels"} or not isinstance(document["labels"], list):
        raise _invalid("the labels file must hold one key, `labels`, with a list of labels")
    rows = document["labels"]
    if not 2 <= len(rows) <= MAX_LABELS:
        raise _invalid(f"a model needs 2 to {MAX_LABELS} labels; the file has {len(rows)}")
    violations: list[tuple[str, str]] = []
    labels = [_parse(i, row, violations) for i, row in enumerate(rows)]
    found = tuple(label for label in labels if label is not None)
    violations += _whole(found)
    if violations:
        first = "; ".join(f"{field}: {text}" for field, text in violations[:5])
        raise InvalidInput(Reason.INVALID_LABELS, f"the labels file is wrong: {first}", violations=violations)
    return found


class _PlainLoader(yaml.SafeLoader):
    """Reads no more than labels need: no aliases, which multiply, and neither many values nor long ones."""

    _nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._nodes += 1
        event = self.peek_event()  # type: ignore[no-untyped-call]
        long = isinstance(event, yaml.ScalarEvent) and len(event.value) > _MAX_SCALAR
        if long or self._nodes > _MAX_NODES or isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError
        return super().compose_node(parent, index)


def _load(text: str) -> Any:
    loader = _PlainLoader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def format_labels(labels: tuple[Label, ...]) -> str:
    """The labels as a LABELS.yaml that `parse_labels` reads back."""
    rows = [label.model_dump(mode="json", exclude_none=True) for label in labels]
    return yaml.safe_dump({"labels": rows}, sort_keys=False, default_flow_style=None)


def _parse(index: int, row: Any, violations: list[tuple[str, str]]) -> Label | None:
    field = f"labels[{index}]"
    if not isinstance(row, dict):
        violations.append((field, "must be a mapping such as {name: GNR, kind: organism, gram: negative}"))
        return None
    try:
        return Label.model_validate(row)
    except ValidationError as error:
        for fault in error.errors(include_url=False, include_input=False, include_context=False):
            where = ".".join(str(part) for part in fault["loc"])
            violations.append((f"{field}.{where}" if where else field, fault["msg"].lower()))
        return None


def _whole(labels: tuple[Label, ...]) -> list[tuple[str, str]]:
    """What is wrong with the labels taken together."""
    names = [label.name for label in labels]
    violations = [(f"labels[{i}].name", f"`{name}` is used twice") for i, name in enumerate(names) if name in names[:i]]
    backgrounds = sum(label.kind == "background" for label in labels)
    if backgrounds > 1:
        violations.append(("labels", f"at most one label can be background; {backgrounds} are"))
    if labels and backgrounds == len(labels):
        violations.append(("labels", "at least one label must be an organism"))
    return violations


def _invalid(message: str) -> InvalidInput:
    return InvalidInput(Reason.INVALID_LABELS, message)
