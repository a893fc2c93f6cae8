"""Artifacts that were measured best on OpenVINO, or with fields at a reduced scale, in the worker's own children."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from gramserve.runtime.engines import installed_engines
from gramserve.store.records import SlideState
from tests.artifacts import coloured
from tests.inference.bench import Bench


@pytest.mark.parametrize("engine", installed_engines())
async def test_a_child_serves_an_artifact_with_the_engine_that_it_names_on_one_thread(
    bench: Bench, engine: str
) -> None:
    version = await bench.publish(engine=engine)
    labels = ["GNR", "GPR", "BACKGROUND", "GPC_CLUSTERS"]
    await bench.submit([await bench.field(label) for label in labels], version)
    # Half a gigabyte is more than either engine and a small model need.
    async with bench.worker(children=1, child_memory_bytes=512 * 2**20):
        outcomes = await bench.ended()
    assert {outcome.state for outcome in outcomes.values()} == {SlideState.SUCCEEDED}
    for index, label in enumerate(labels):
        assert outcomes[index].engine.startswith(f"{engine} ")
        assert "threads=1" in outcomes[index].engine
        call = outcomes[index].call
        assert call is not None
        assert [finding["label"] for finding in call["findings"]] == ([label] if label != "BACKGROUND" else [])


async def test_a_field_that_is_decoded_at_a_reduced_scale_has_its_evidence_in_its_own_pixels(bench: Bench) -> None:
    version = await bench.publish(decode_reduction=2)
    field = np.concatenate([coloured("BACKGROUND", 256, 64), coloured("BACKGROUND", 256, 64)])
    field[64:, 128:192] = coloured("GPR")
    done, data = cv2.imencode(".jpg", np.ascontiguousarray(field[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 98])
    assert done
    await bench.submit([await bench.image(data.tobytes())], version)
    async with bench.worker(children=1):
        outcomes = await bench.ended()
    call = outcomes[0].call
    assert call is not None
    (finding,) = call["findings"]
    (evidence,) = finding["evidence"]
    assert [evidence[key] for key in ("x", "y", "width", "height")] == [128, 64, 64, 64]
