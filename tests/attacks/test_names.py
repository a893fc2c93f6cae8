"""Names and texts that should break a log, a header or a screen: refused without being repeated, or harmless."""

from __future__ import annotations

import json
from collections.abc import Callable

import grpc
import pytest

from gramserve import log
from gramserve.errors import Reason
from gramserve.v1 import slide_batch_pb2 as b
from gramserve.v1 import slide_batch_service_pb2 as s
from tests.gateway.stack import LAB, Stack, refused, request

EVIL = {
    "line end": "A\r\nX-Admin: yes",
    "bare line feed": 'A\n{"event": "all slides negative", "level": "info"}',
    "zero": "A\0B",
    "other direction": "A\u202eGPJ",
    "isolate": "A\u2066B\u2069",
    "zero width": "A\u200bB",
    "line separator": "A\u2028B",
    "escape": "A\x1b[2J\x1b[31mRED",
    "bell": "A\x07",
    "delete": "A\x7f",
    "C1": "A\x9b31m",
    "tag": "A\U000e0041",
    "lone": "A\ufeff",
}


@pytest.mark.parametrize("text", EVIL.values(), ids=EVIL)
async def test_a_slide_id_of_what_cannot_be_seen_is_refused_and_not_repeated(stack: Stack, text: str) -> None:
    slide = b.SlideSource(slide_id=text, images=[b.Image(uri="file:///data/1.jpg")])
    code, error = await refused(stack.api.CreateSlideBatch(request(0, slides=[slide])))
    assert (code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, Reason.INVALID_FIELD)
    assert text not in repr((error.message, error.violations, error.metadata))
    assert "A" not in error.message


@pytest.mark.parametrize("text", EVIL.values(), ids=EVIL)
@pytest.mark.parametrize("field", ["uri", "specimen_type", "batch id", "request id", "parent", "page token", "filter"])
async def test_no_other_name_takes_it_or_gives_it_back(stack: Stack, field: str, text: str) -> None:
    good = b.SlideSource(slide_id="S", images=[b.Image(uri="file:///data/1.jpg")])
    calls = {
        "uri": lambda: stack.api.CreateSlideBatch(
            request(0, slides=[b.SlideSource(slide_id="S", images=[b.Image(uri=f"file:///{text}")])])
        ),
        "specimen_type": lambda: stack.api.CreateSlideBatch(
            request(0, slides=[b.SlideSource(slide_id="S", images=good.images, specimen_type=text)])
        ),
        "batch id": lambda: stack.api.CreateSlideBatch(request(1, batch_id=text)),
        "request id": lambda: stack.api.CreateSlideBatch(request(1, request_id=text)),
        "parent": lambda: stack.api.ListSlideBatches(s.ListSlideBatchesRequest(parent=f"laboratories/{text}")),
        "page token": lambda: stack.api.ListSlideBatches(s.ListSlideBatchesRequest(parent=LAB, page_token=text)),
        "filter": lambda: stack.api.ListSlideBatches(s.ListSlideBatchesRequest(parent=LAB, filter=f"state={text}")),
    }
    code, error = await refused(calls[field]())
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert text not in repr((error.message, error.violations, error.metadata))
    assert text not in error.message


@pytest.mark.parametrize("text", EVIL.values(), ids=EVIL)
@pytest.mark.parametrize("style", ["json", "text"])
def test_whatever_is_logged_stays_one_line_of_visible_characters(
    capsys: pytest.CaptureFixture[str], configure_log: Callable[..., None], style: str, text: str
) -> None:
    configure_log("test", style=style)
    log.get(worker=text).warning("something happened", reason=text, batch=[text])
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert said.removesuffix("\n").isprintable()
    if style == "json":
        assert json.loads(said)["reason"] == text
