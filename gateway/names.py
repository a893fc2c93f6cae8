"""Resource names of laboratories, batches and slides."""

from __future__ import annotations

import re
from dataclasses import dataclass

from gramserve.errors import InvalidInput, Reason

_LABORATORY = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_BATCH = re.compile(r"[a-z0-9][a-z0-9-]{3,62}")
_LABORATORY_RULE = 'must be "laboratories/" and 1 to 63 of [a-z0-9-], no hyphen first'
_BATCH_RULE = 'must be "laboratories/{laboratory}/slideBatches/{slide_batch}"'


@dataclass(frozen=True, slots=True)
class BatchName:
    """A batch of a laboratory, both as ids."""

    laboratory: str
    batch: str

    @property
    def key(self) -> str:
        """The batch in the queue."""
        return f"{self.laboratory}/{self.batch}"

    @property
    def resource(self) -> str:
        """The resource name."""
        return f"laboratories/{self.laboratory}/slideBatches/{self.batch}"

    def slide(self, index: int) -> str:
        """The resource name of the slide `index`; not of its slide_id, which may hold any character."""
        return f"{self.resource}/slides/{index}"

    @classmethod
    def from_key(cls, key: str) -> BatchName:
        """The batch behind its name in the queue."""
        laboratory, _, batch = key.partition("/")
        return cls(laboratory, batch)


def parse_laboratory(parent: str, field: str = "parent") -> str:
    """The id in "laboratories/{laboratory}"; raises InvalidInput."""
    head, _, laboratory = parent.partition("/")
    if head != "laboratories" or _LABORATORY.fullmatch(laboratory) is None:
        raise invalid(field, _LABORATORY_RULE)
    return laboratory


def parse_batch(name: str, field: str = "name") -> BatchName:
    """The batch of "laboratories/{laboratory}/slideBatches/{slide_batch}"; raises InvalidInput."""
    parts = name.split("/")
    if (
        len(parts) != 4
        or (parts[0], parts[2]) != ("laboratories", "slideBatches")
        or _LABORATORY.fullmatch(parts[1]) is None
        or _BATCH.fullmatch(parts[3]) is None
    ):
        raise invalid(field, _BATCH_RULE)
    return BatchName(parts[1], parts[3])


def check_batch_id(batch: str, field: str = "slide_batch_id") -> str:
    """`batch` itself; raises InvalidInput unless it can be the last part of a batch's name."""
    if _BATCH.fullmatch(batch) is None:
        raise invalid(field, "must be 4 to 63 of [a-z0-9-], no hyphen first")
    return batch


def invalid(field: str, rule: str) -> InvalidInput:
    """INVALID_FIELD for one field of a request."""
    return InvalidInput(Reason.INVALID_FIELD, f"{field} {rule}", violations=[(field, rule)])
