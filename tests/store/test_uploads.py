"""Uploads: resumed at any point, checked as a whole, visible only when whole."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.store import MemoryStore

from gramserve.errors import InvalidInput, Reason, Unavailable
from gramserve.store.layout import slide_path
from gramserve.store.objects import ObjectStore, RemoteObjects
from gramserve.store.uploads import Uploads, UploadStatus

DATA = bytes(range(100))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def place(data: bytes) -> str:
    return slide_path("lab", sha256(data))


async def parts(objects: ObjectStore) -> list[tuple[str, int]]:
    return [(info.path.rpartition("/")[2], info.size) async for info in objects.list("uploads")]


async def send(uploads: Uploads, data: bytes, *, offset: int = 0, chunk: int = 7, claim: bytes | None = None) -> int:
    """Sends `data` as if it were `claim`; returns what finish says."""
    claim = data if claim is None else claim
    upload = await uploads.open("lab", sha256(claim), place(claim), offset=offset)
    for start in range(offset, len(data), chunk):
        await upload.write(data[start : start + chunk], offset=start)
    return await upload.finish()


@pytest.mark.parametrize("part_bytes", [1, 10, 33, 100, 1000])
async def test_bytes_that_came_whole_lie_under_their_digest_and_no_part_stays(
    objects: ObjectStore, part_bytes: int
) -> None:
    uploads = Uploads(objects, part_bytes=part_bytes)
    assert await uploads.status("lab", sha256(DATA), place(DATA)) == UploadStatus(complete=False, next_offset=0)
    assert await send(uploads, DATA) == 100
    assert await objects.get(place(DATA)) == DATA
    assert await uploads.status("lab", sha256(DATA), place(DATA)) == UploadStatus(complete=True, next_offset=100)
    assert await parts(objects) == []
    assert await send(uploads, b"") == 0


async def test_known_bytes_are_not_sent_twice(objects: ObjectStore) -> None:
    uploads = Uploads(objects, part_bytes=10)
    await send(uploads, DATA)
    again = await uploads.open("lab", sha256(DATA), place(DATA), offset=100)
    assert again.complete
    assert await again.finish() == 100
    careless = await uploads.open("lab", sha256(DATA), place(DATA))
    await careless.write(b"dropped", offset=0)
    assert await careless.finish() == 100
    assert await objects.get(place(DATA)) == DATA
    assert await parts(objects) == []


async def test_an_upload_that_broke_off_keeps_its_full_parts_and_goes_on_behind_them(objects: ObjectStore) -> None:
    uploads = Uploads(objects, part_bytes=10)
    broken = await uploads.open("lab", sha256(DATA), place(DATA))
    await broken.write(DATA[:37])
    assert await parts(objects) == [(f"{offset:016d}", 10) for offset in (0, 10, 20)]
    assert await uploads.status("lab", sha256(DATA), place(DATA)) == UploadStatus(complete=False, next_offset=30)
    assert await uploads.status("lab2", sha256(DATA), place(DATA)) == UploadStatus(complete=False, next_offset=0)
    assert await objects.size(place(DATA)) is None
    assert await send(Uploads(objects, part_bytes=10), DATA, offset=30) == 100
    assert await objects.get(place(DATA)) == DATA
    assert await parts(objects) == []


async def test_a_gap_between_parts_is_where_to_go_on(objects: ObjectStore) -> None:
    uploads = Uploads(objects, part_bytes=10)
    broken = await uploads.open("lab", sha256(DATA), place(DATA))
    await broken.write(DATA[:55])
    await objects.delete(f"uploads/lab/{sha256(DATA)}/{20:016d}")
    assert (await uploads.status("lab", sha256(DATA), place(DATA))).next_offset == 20
    assert await send(uploads, DATA, offset=20) == 100
    assert await objects.get(place(DATA)) == DATA


async def test_a_wrong_offset_says_the_right_one(objects: ObjectStore) -> None:
    uploads = Uploads(objects, part_bytes=10)
    upload = await uploads.open("lab", sha256(DATA), place(DATA))
    await upload.write(DATA[:25])
    with pytest.raises(InvalidInput) as caught:
        await upload.write(DATA[30:], offset=30)
    assert caught.value.reason is Reason.WRONG_OFFSET
    assert caught.value.metadata == {"next_offset": "25"}
    for offset in (10, 25, 30, 1000):
        with pytest.raises(InvalidInput) as caught:
            await uploads.open("lab", sha256(DATA), place(DATA), offset=offset)
        assert caught.value.reason is Reason.WRONG_OFFSET
        assert caught.value.metadata == {"next_offset": "20"}


@pytest.mark.parametrize("part_bytes", [10, 1000])
async def test_other_bytes_are_CHECKSUM_MISMATCH_and_nothing_of_them_stays(
    objects: ObjectStore, part_bytes: int
) -> None:
    uploads = Uploads(objects, part_bytes=part_bytes)
    with pytest.raises(InvalidInput) as caught:
        await send(uploads, DATA[:-1] + b"?", claim=DATA)
    assert caught.value.reason is Reason.CHECKSUM_MISMATCH
    assert await parts(objects) == []
    assert await objects.size(place(DATA)) is None
    assert await send(uploads, DATA) == 100


async def test_a_part_that_was_altered_in_the_store_is_noticed(objects: ObjectStore) -> None:
    uploads = Uploads(objects, part_bytes=10)
    upload = await uploads.open("lab", sha256(DATA), place(DATA))
    await upload.write(DATA)
    await objects.put(f"uploads/lab/{sha256(DATA)}/{10:016d}", b"0123456789")
    with pytest.raises(InvalidInput) as caught:
        await upload.finish()
    assert caught.value.reason is Reason.CHECKSUM_MISMATCH
    assert await objects.size(place(DATA)) is None


async def test_another_size_than_announced_is_SIZE_MISMATCH(objects: ObjectStore) -> None:
    uploads = Uploads(objects, part_bytes=10)
    upload = await uploads.open("lab", sha256(DATA), place(DATA), size_bytes=50)
    await upload.write(DATA[:40])
    with pytest.raises(InvalidInput) as more:
        await upload.write(DATA[40:])
    with pytest.raises(InvalidInput) as fewer:
        await upload.finish()
    assert more.value.reason is fewer.value.reason is Reason.SIZE_MISMATCH
    assert await send(uploads, DATA, offset=40) == 100


async def test_too_large_is_refused_when_announced_and_when_it_comes(objects: ObjectStore) -> None:
    uploads = Uploads(objects, part_bytes=10, max_bytes=99)
    with pytest.raises(InvalidInput) as announced:
        await uploads.open("lab", sha256(DATA), place(DATA), size_bytes=100)
    with pytest.raises(InvalidInput) as came:
        await send(uploads, DATA)
    assert announced.value.reason is came.value.reason is Reason.UPLOAD_TOO_LARGE
    assert await parts(objects) == []
    assert await send(uploads, DATA[:99]) == 99


@pytest.mark.slow
async def test_concurrent_uploads_of_the_same_bytes_all_end_well(objects: ObjectStore) -> None:
    big = DATA * 20
    sizes = await asyncio.gather(*(send(Uploads(objects, part_bytes=64), big, chunk=10 + n) for n in range(8)))
    assert set(sizes) == {len(big)}
    assert await objects.get(place(big)) == big
    assert await parts(objects) == []


async def test_two_uploads_that_take_turns_both_end_well(objects: ObjectStore) -> None:
    uploads = Uploads(objects, part_bytes=10)
    first = await uploads.open("lab", sha256(DATA), place(DATA))
    second = await uploads.open("lab", sha256(DATA), place(DATA))
    await first.write(DATA[:60])
    await second.write(DATA[:80])
    await first.write(DATA[60:])
    assert await first.finish() == 100
    await second.write(DATA[80:])
    assert await second.finish() == 100
    assert await objects.get(place(DATA)) == DATA
    assert await parts(objects) == []


async def test_an_upload_whose_parts_a_liar_had_removed_can_be_tried_again(objects: ObjectStore) -> None:
    uploads = Uploads(objects, part_bytes=10)
    honest = await uploads.open("lab", sha256(DATA), place(DATA))
    await honest.write(DATA)
    with pytest.raises(InvalidInput):
        await send(uploads, b"?" * 100, claim=DATA)
    with pytest.raises(Unavailable) as caught:
        await honest.finish()
    assert caught.value.retry_after_s is not None
    assert await send(uploads, DATA) == 100


@pytest.mark.parametrize("digest", ["", "A" * 64, "0" * 63, "../" + "0" * 61])
async def test_a_digest_is_64_hex_digits(objects: ObjectStore, digest: str) -> None:
    with pytest.raises(InvalidInput):
        await Uploads(objects).open("lab", digest, "slides/lab/x")
    with pytest.raises(InvalidInput):
        await Uploads(objects).status("lab", digest, "slides/lab/x")
    with pytest.raises(InvalidInput):
        slide_path("lab", digest)


@settings(max_examples=60)
@given(
    data=st.binary(max_size=60),
    part_bytes=st.integers(1, 70),
    breaks=st.lists(st.integers(0, 60), max_size=4),
    chunk=st.integers(1, 61),
)
def test_an_upload_that_breaks_off_anywhere_ends_with_the_same_bytes(
    data: bytes, part_bytes: int, breaks: Sequence[int], chunk: int
) -> None:
    async def upload_with_breaks() -> None:
        objects = RemoteObjects(MemoryStore(), "s3://bucket")
        uploads = Uploads(objects, part_bytes=part_bytes)
        for end in breaks:
            offset = (await uploads.status("lab", sha256(data), place(data))).next_offset
            broken = await uploads.open("lab", sha256(data), place(data), offset=offset)
            for start in range(offset, min(end, len(data)), chunk):
                await broken.write(data[start : min(start + chunk, end)], offset=start)
        offset = (await uploads.status("lab", sha256(data), place(data))).next_offset
        assert await send(uploads, data, offset=offset, chunk=chunk) == len(data)
        assert await objects.get(place(data)) == data
        assert await parts(objects) == []

    asyncio.run(upload_with_breaks())
