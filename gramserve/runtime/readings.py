"""What an engine said of the tiles of a slide, before a call is made of it."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from gramserve.images.tiles import Box
from gramserve.runtime.preprocess import Place


class Places(Sequence[Place]):
    """Where tiles were cut, 20 bytes each: int32 [N, 5] of image index, x, y, width, height."""

    def __init__(self, rows: NDArray[np.int32]) -> None:
        self.rows = rows

    @classmethod
    def of(cls, places: Sequence[Place]) -> Places:
        """The same places, compactly; those that are so already as they are."""
        if isinstance(places, cls):
            return places
        boxes = [(p.image_index, p.box.x, p.box.y, p.box.width, p.box.height) for p in places]
        return cls(np.array(boxes, np.int32).reshape(-1, 5))

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Place: ...
    @overload
    def __getitem__(self, index: slice) -> Places: ...
    def __getitem__(self, index: int | slice) -> Place | Places:
        if isinstance(index, slice):
            return Places(self.rows[index])
        image_index, x, y, width, height = (int(value) for value in self.rows[index])
        return Place(image_index, Box(x, y, width, height))


@dataclass(frozen=True, slots=True)
class Readings:
    """Logits float32 [N, C] of N tiles, where each of them was cut, and the seconds spent inside the engine.

    `quality` float32 [N, 6] are the measures of `gramserve.runtime.quality`, where the contract asks for them.
    """

    logits: NDArray[np.float32]
    places: Sequence[Place]
    inference_s: float
    quality: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.places)

    def to_bytes(self) -> bytes:
        """All fields; `from_bytes` reads them back."""
        file = io.BytesIO()
        np.savez(file, allow_pickle=False, **dict(self._arrays()))
        return file.getvalue()

    def _arrays(self) -> Iterator[tuple[str, NDArray[Any]]]:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "places":
                value = Places.of(value).rows
            if value is not None:
                yield field.name, np.asarray(value)

    @classmethod
    def from_bytes(cls, data: bytes) -> Readings:
        """Reads what `to_bytes` wrote."""
        return cls.joined([data])

    @classmethod
    def joined(cls, parts: Sequence[bytes]) -> Readings:
        """The readings of one slide from those of its parts, in their order: tiles follow, seconds add up."""
        together: dict[str, list[NDArray[Any]]] = {}
        for part in parts:
            with np.load(io.BytesIO(part), allow_pickle=False) as arrays:
                for name in arrays.files:
                    together.setdefault(name, []).append(arrays[name])
        values: dict[str, Any] = {
            name: np.concatenate(arrays) if arrays[0].ndim else float(sum(float(array) for array in arrays))
            for name, arrays in together.items()
        }
        return cls(**values | {"places": Places(values["places"])})
