"""Readings travel as bytes, and those of parts come together in order."""

from __future__ import annotations

import numpy as np

from gramserve.images.tiles import Box
from gramserve.runtime.preprocess import Place
from gramserve.runtime.readings import Readings
from inference_svc.protocol import join_blobs, split_blobs


def readings(tiles: int, start: int = 0) -> Readings:
    logits = np.random.default_rng(start).normal(size=(tiles, 5)).astype(np.float32)
    return Readings(logits, tuple(Place(1, Box(start + n, 7, 64, 64)) for n in range(tiles)), 0.25)


def test_readings_come_back_from_bytes_as_they_were():
    given = readings(9)
    again = Readings.from_bytes(given.to_bytes())
    assert np.array_equal(again.logits, given.logits)
    assert list(again.places) == list(given.places)
    assert again.inference_s == given.inference_s
    assert list(Readings.from_bytes(again.to_bytes()).places[2:4]) == list(given.places[2:4])


def test_parts_come_together_in_their_order_even_where_one_has_no_tiles():
    parts = [readings(3), readings(0), readings(2, start=3)]
    together = Readings.joined(split_blobs(join_blobs([part.to_bytes() for part in parts])))
    assert np.array_equal(together.logits, np.concatenate([part.logits for part in parts]))
    assert [place.box.x for place in together.places] == [0, 1, 2, 3, 4]
    assert together.inference_s == 0.75
    assert len(together) == 5
