"""Pages of batches and slides."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from gateway.paging import encode_token
from gramserve.errors import Reason
from gramserve.v1 import model_service_pb2 as m
from gramserve.v1 import slide_batch_pb2 as b
from gramserve.v1 import slide_batch_service_pb2 as s
from gramserve.v1 import slide_pb2
from tests.gateway.stack import LAB, STATE, Stack, refused

SLIDE = slide_pb2.Slide.State


async def batches(stack: Stack, **asked: Any) -> s.ListSlideBatchesResponse:
    answer: s.ListSlideBatchesResponse = await stack.api.ListSlideBatches(
        s.ListSlideBatchesRequest(**{"parent": LAB, **asked})
    )
    return answer


async def slides(stack: Stack, parent: str, **asked: Any) -> s.ListSlidesResponse:
    answer: s.ListSlidesResponse = await stack.api.ListSlides(s.ListSlidesRequest(parent=parent, **asked))
    return answer


async def test_batches_come_newest_first_page_by_page(stack: Stack) -> None:
    names = [(await stack.create(1)).name for _ in range(5)]
    await stack.create(1, parent="laboratories/south")
    found, token = [], ""
    for expected in (2, 2, 1):
        page = await batches(stack, page_size=2, page_token=token)
        assert len(page.slide_batches) == expected
        found += [batch.name for batch in page.slide_batches]
        token = page.next_page_token
    assert token == ""
    assert found == names[::-1]


async def test_batches_are_found_by_state_and_priority(stack: Stack) -> None:
    stat = await stack.create(1, priority=b.SlideBatch.PRIORITY_STAT)
    routine, ended = await stack.create(1), await stack.create(1)
    await stack.worker.drain()
    for name in (stat.name, routine.name, ended.name):
        await stack.ended(name)
    waiting = await stack.create(1)
    assert [one.name for one in (await batches(stack, filter="state=QUEUED")).slide_batches] == [waiting.name]
    assert [one.name for one in (await batches(stack, filter="priority=STAT")).slide_batches] == [stat.name]
    page = await batches(stack, filter="state=SUCCEEDED AND priority=ROUTINE", page_size=1)
    assert [one.name for one in page.slide_batches] == [ended.name]
    page = await batches(
        stack, filter="state=SUCCEEDED AND priority=ROUTINE", page_size=5, page_token=page.next_page_token
    )
    assert [one.name for one in page.slide_batches] == [routine.name]


async def test_a_laboratory_without_batches_has_an_empty_page(stack: Stack) -> None:
    assert await batches(stack) == s.ListSlideBatchesResponse()


async def test_slides_come_in_order_of_submission_with_results_and_errors(stack: Stack) -> None:
    batch = await stack.create(5)
    await stack.run(batch.name, failing=(1,), review=(3,))
    first = await slides(stack, batch.name, page_size=3)
    rest = await slides(stack, batch.name, page_size=3, page_token=first.next_page_token)
    found = [*first.slides, *rest.slides]
    assert rest.next_page_token == ""
    assert [slide.slide_id for slide in found] == [f"S-{i:05d}" for i in range(5)]
    assert [slide.name for slide in found] == [f"{batch.name}/slides/{i}" for i in range(5)]
    assert found[0].call.outcome == slide_pb2.Call.OUTCOME_ORGANISMS_SEEN
    assert found[0].artifact_digest == batch.model_digest
    assert found[0].HasField("inference_duration")
    assert found[1].error.details
    assert not found[1].HasField("call")


async def test_slides_are_found_by_state_and_review(stack: Stack) -> None:
    batch = await stack.create(6)
    await stack.run(batch.name, failing=(1, 4), review=(3,))
    failed = await slides(stack, batch.name, filter="state=FAILED", page_size=1)
    assert [slide.index for slide in failed.slides] == [1]
    failed = await slides(stack, batch.name, filter="state=FAILED", page_token=failed.next_page_token)
    assert [slide.index for slide in failed.slides] == [4]
    assert failed.next_page_token == ""
    review = await slides(stack, batch.name, filter="review_required=true")
    assert [slide.index for slide in review.slides] == [3]
    neither = await slides(stack, batch.name, filter="review_required=false AND state=SUCCEEDED")
    assert [slide.index for slide in neither.slides] == [0, 2, 5]


async def test_slides_of_a_running_batch_have_the_state_of_now(stack: Stack) -> None:
    batch = await stack.create(3)
    assert {slide.state for slide in (await slides(stack, batch.name)).slides} == {SLIDE.STATE_QUEUED}
    leases = await stack.worker.lease(3)
    assert {slide.state for slide in (await slides(stack, batch.name)).slides} == {SLIDE.STATE_RUNNING}
    await stack.worker.finish(leases[1])
    states = [slide.state for slide in (await slides(stack, batch.name)).slides]
    assert states == [SLIDE.STATE_RUNNING, SLIDE.STATE_SUCCEEDED, SLIDE.STATE_RUNNING]


async def test_a_page_has_at_most_a_thousand_slides(stack: Stack) -> None:
    batch = await stack.create(1005)
    page = await slides(stack, batch.name, page_size=5000)
    assert len(page.slides) == 1000
    assert len((await slides(stack, batch.name, page_token=page.next_page_token)).slides) == 5


@pytest.mark.parametrize("token", ["x", "AAAA", "eyJhIjoxfQ", "ü", "%%%%", "A" * 4000])
async def test_a_page_token_that_is_none_is_refused(stack: Stack, token: str) -> None:
    batch = await stack.create(1)
    for call in (batches(stack, page_token=token), slides(stack, batch.name, page_token=token)):
        code, error = await refused(call)
        assert (code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, Reason.INVALID_PAGE_TOKEN)


@pytest.mark.parametrize("position", [[], ["x"], [None], [-1], [1, 2], [[]], [1e400], [{}]])
async def test_a_forged_page_token_is_refused_and_no_internal_error(stack: Stack, position: list[object]) -> None:
    batch = await stack.create(1)
    key = batch.name.replace("laboratories/", "").replace("slideBatches/", "")
    for call in (
        batches(stack, page_token=encode_token(("batches", "north", ""), position)),
        slides(stack, batch.name, page_token=encode_token(("slides", key, ""), position)),
        stack.models.ListModelVersions(
            m.ListModelVersionsRequest(parent="models/gram", page_token=encode_token(("versions", "gram"), position))
        ),
        stack.models.ListModels(m.ListModelsRequest(page_token=encode_token(("models",), [*position, 1]))),
    ):
        code, error = await refused(call)
        assert (code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, Reason.INVALID_PAGE_TOKEN)


async def test_a_page_token_of_another_listing_is_refused(stack: Stack) -> None:
    first, second = await stack.create(2), await stack.create(2)
    token = (await slides(stack, first.name, page_size=1)).next_page_token
    for call in (
        slides(stack, second.name, page_token=token),
        slides(stack, first.name, page_token=token, filter="state=QUEUED"),
        batches(stack, page_token=token),
    ):
        _, error = await refused(call)
        assert error.reason is Reason.INVALID_PAGE_TOKEN


@pytest.mark.parametrize(
    "text", ["state", "state=DONE", "size=3", "state=QUEUED OR priority=STAT", "state=QUEUED AND state=RUNNING", "="]
)
async def test_a_filter_that_cannot_be_read_is_refused(stack: Stack, text: str) -> None:
    code, error = await refused(batches(stack, filter=text))
    assert (code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, Reason.INVALID_FILTER)


async def test_a_negative_page_size_is_refused(stack: Stack) -> None:
    _, error = await refused(batches(stack, page_size=-1))
    assert error.reason is Reason.INVALID_FIELD


async def test_failures_are_shown_with_the_batch(stack: Stack) -> None:
    batch = await stack.create(30)
    ended = await stack.run(batch.name, failing=range(25))
    assert ended.state == STATE.STATE_PARTIALLY_SUCCEEDED
    assert len(ended.partial_failures) == 20
    assert ended.partial_failures[0].message == "the image is damaged"
