"""Finished stages of a search in the store, so that another machine goes on where this one stopped."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import BinaryIO

from gramserve import log
from gramserve.errors import InvalidInput
from gramserve.store.codec import RecordCorrupt
from gramserve.store.objects import ObjectMissing, ObjectStore
from optimizer_svc.records import StageRecord
from optimizer_svc.workspace import DONE

STAGE = "stage.json"
MAX_STAGE_BYTES = 4 * 2**30
_CHUNK_BYTES = 8 * 2**20


class Damaged(Exception):
    """A stage of the store is not whole."""


class Stages:
    """Copies of the stage folders below `root` (see `optimizer_svc.workspace`) under `prefix` of the store.

    Every file lies under its SHA-256, and stage.json, created last, names them: two services that copy one stage at the
    same time, as a zombie may, leave one whole copy and never a mixture.
    """

    def __init__(self, objects: ObjectStore, prefix: str, root: Path) -> None:
        self._objects = objects
        self._prefix = prefix
        self._root = root
        self._settled: set[str] = set()
        self._log = log.get()

    async def keep(self, still_ours: Callable[[], None]) -> None:
        """Copies what is finished and not there yet; asks `still_ours`, which may raise, before every write.

        Raises what the store raises; a repeat goes on.
        """
        for folder in await asyncio.to_thread(_finished, self._root):
            if folder.name not in self._settled:
                try:
                    await self._keep(folder, still_ours)
                except InvalidInput:  # no name for the store
                    self._log.warning("a stage cannot be kept in the store", cause="name")
                self._settled.add(folder.name)

    async def bring(self, still_wanted: Callable[[], None]) -> None:
        """Restores the stages that are missing below `root`; asks `still_wanted`, which may raise, between reads.

        A stage that is not whole in the store is left out: it is worked out anew. Raises what the store raises.
        """
        for stage in await self._objects.folders(self._prefix):
            folder = self._root / stage
            if not await asyncio.to_thread((folder / DONE).is_file):
                try:
                    await self._bring(stage, folder, still_wanted)
                except (ObjectMissing, RecordCorrupt, Damaged):
                    await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
                    continue
            self._settled.add(stage)

    async def _keep(self, folder: Path, still_ours: Callable[[], None]) -> None:
        files = await asyncio.to_thread(_files, folder)
        if sum(path.stat().st_size for path in files) > MAX_STAGE_BYTES:
            self._log.warning("a stage cannot be kept in the store", cause="size")
            return
        record = StageRecord({path.name: await asyncio.to_thread(_sha256, path) for path in files})
        for path in files:
            name, size = f"{self._prefix}/{folder.name}/{record.files[path.name]}", path.stat().st_size
            still_ours()
            if await self._objects.size(name) == size:
                continue
            if size <= _CHUNK_BYTES:  # most are small, and a bucket takes no empty stream
                await self._objects.put(name, await asyncio.to_thread(path.read_bytes))
            else:
                await self._objects.put_stream(name, _chunks(path, still_ours))
        still_ours()
        await self._objects.create(f"{self._prefix}/{folder.name}/{STAGE}", record.to_json())

    async def _bring(self, stage: str, folder: Path, still_wanted: Callable[[], None]) -> None:
        record = StageRecord.from_json(await self._objects.get(f"{self._prefix}/{stage}/{STAGE}"))
        if DONE not in record.files or any(Path(name).name != name for name in record.files):
            raise Damaged
        await asyncio.to_thread(_emptied, folder)
        for name, sha256 in sorted(record.files.items(), key=lambda file: file[0] == DONE):  # done.json last
            part = folder / f"{name}.part"
            with part.open("wb") as sink:
                await self._download(f"{self._prefix}/{stage}/{sha256}", sink, still_wanted)
            if await asyncio.to_thread(_sha256, part) != sha256:
                raise Damaged
            part.rename(folder / name)

    async def _download(self, path: str, sink: BinaryIO, still_wanted: Callable[[], None]) -> None:
        size = await self._objects.size(path)
        if size is None:
            raise ObjectMissing
        for start in range(0, size, _CHUNK_BYTES):
            still_wanted()
            await asyncio.to_thread(sink.write, await self._objects.get_range(path, start, _CHUNK_BYTES))


async def forget(objects: ObjectStore, prefix: str) -> None:
    """Removes all stages under `prefix` from the store, each one's stage.json first; may be repeated."""
    paths = [info.path async for info in objects.list(prefix)]
    for path in sorted(paths, key=lambda path: not path.endswith(f"/{STAGE}")):
        await objects.delete(path)


def _finished(root: Path) -> list[Path]:
    """The folders of finished stages, the oldest first."""
    done = [(path.stat().st_mtime, path.parent) for path in root.glob(f"*/{DONE}")]
    return [folder for _, folder in sorted(done)]


def _files(folder: Path) -> list[Path]:
    """The files of a finished stage, done.json last."""
    names = json.loads((folder / DONE).read_bytes())["files"]
    return [*(folder / name for name in names), folder / DONE]


def _emptied(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def _chunks(path: Path, still_ours: Callable[[], None]) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while chunk := await asyncio.to_thread(file.read, _CHUNK_BYTES):
            still_ours()
            yield chunk
