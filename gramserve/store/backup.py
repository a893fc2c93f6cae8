"""Copies a store while services use it, so that the copy is a store that could have been.

Whatever refers to something was written after it. So what refers is looked up before what it refers to is listed: an
end before its outcomes, an alias before its version, a batch before its images and its version. And it is copied after
that, as it was written. So nothing in the copy lacks what it needs, wherever copying was broken off.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass

from gramserve.errors import Reason, Unsafe
from gramserve.store.format import FORMAT, KINDS, PATH, FormatRecord, put_format, read_format
from gramserve.store.objects import ObjectInfo, ObjectMissing, ObjectStore
from gramserve.store.open_rounds import OpenRounds

LEFT_OUT = ("open", "probe", "reuse", "uploads", "condemned")
"""Markers are made anew; the others are unfinished, or can be made again, or say what may be deleted by now."""

_COMMITS = ("/manifest.json", "/outcome.json", "/stage.json")
_SMALL_BYTES = 2**20
_TOGETHER, _TOGETHER_BYTES = 256, 2**24
_PIECE_BYTES = 2**23


@dataclass(frozen=True, slots=True)
class Copied:
    """What a backup did: objects and bytes that were copied, objects that were there already, open batches in it."""

    objects: int
    bytes: int
    kept: int
    open_batches: int


class Backup:
    """Copies `source` into `target`, which is empty or a copy that was made before."""

    def __init__(self, source: ObjectStore, target: ObjectStore) -> None:
        self._source = source
        self._target = target
        self._objects = self._bytes = self._kept = 0

    async def run(self) -> Copied:
        """Copies what is missing. Until it ends no service starts on the copy.

        Broken off, it is repeated. A copy that was whole before can also be copied elsewhere as it is then: each batch
        stands as it stood before or as it does now.

        Raises Unsafe (UNSAFE_STORE) when `target` is in use, has something else in it or lies within `source`, or
        when `source` is of another release or a copy that was never finished; and what the stores raise.
        """
        before = await self._check()
        usable = before.copy and before.usable
        await put_format(self._target, FormatRecord(FORMAT, copy=True, unfinished=True, was_whole=usable))
        aliases = await self._read(info async for info in self._source.list("models") if _moves(info.path))
        batches = await self._ended_rounds()
        optimizations = await self._committed("optimizations")
        others = sorted(set(await self._source.folders("")) - {*LEFT_OUT, *KINDS})
        await self._copy_audit()
        await self._copy_folder("checkpoints")
        await self._copy_committed("models", await self._committed("models"))
        await self._copy_committed("optimizations", optimizations)
        for kind in ("slides", "requests"):
            await self._copy_folder(kind)
        await self._copy_batches(batches)
        for kind in (*others, "tombstones"):
            await self._copy_folder(kind)
        for path, data in aliases.items():
            await self._target.put(path, data)
        kept = self._kept
        await self._copy_audit()  # again: a deed that is in the copy by now was recorded before
        markers = await OpenRounds(self._target).restore()
        await put_format(self._target, FormatRecord(FORMAT, copy=True))
        return Copied(self._objects, self._bytes, kept, markers)

    async def _check(self) -> FormatRecord:
        """What the target says of itself."""
        here, there = (store.uri(PATH).removesuffix(PATH) for store in (self._source, self._target))
        if here.startswith(there) or there.startswith(here):
            raise Unsafe(Reason.UNSAFE_STORE, "a copy cannot lie within the store that is copied, nor around it")
        found = await read_format(self._source)
        if found.format != FORMAT or not found.usable:
            raise Unsafe(
                Reason.UNSAFE_STORE, "what is to be copied is of another release, or a copy that was not finished"
            )
        there_is = await read_format(self._target)
        if not there_is.copy and await _has_objects(self._target):
            raise Unsafe(
                Reason.UNSAFE_STORE, "there is a store or something else already: a backup needs a place of its own"
            )
        if await self._went_its_own_way():
            raise Unsafe(
                Reason.UNSAFE_STORE,
                "the copy has audit records of its own, as of a report made from it: begin a new copy elsewhere",
            )
        return there_is

    async def _went_its_own_way(self) -> bool:
        """Whether the last audit records of the copy are not the source's: the next ones would not follow them."""
        for day in (await self._target.folders("audit/open"))[-1:]:
            names = await self._target.files(f"audit/open/{day}")
            for path in [f"audit/open/{day}/{name}" for name in names[-1:]]:
                own, same, sealed = (
                    await _get(self._target, path),
                    await _get(self._source, path),
                    await _get(self._source, f"audit/{day}.jsonl"),
                )
                return bool(same or sealed) and own != same and own not in sealed
        return False

    async def _ended_rounds(self) -> dict[str, int]:
        """How many rounds of each batch that was accepted have ended by now, by the folder of the batch."""
        found: dict[str, int] = {}
        for laboratory in await self._source.folders("batches"):
            for batch in await self._source.folders(f"batches/{laboratory}"):
                folder, rounds = f"batches/{laboratory}/{batch}", 0
                ends = {info.path async for info in self._source.list(f"{folder}/final")}
                while f"{folder}/final/{rounds}.json" in ends:
                    rounds += 1
                if ends or await self._source.size(f"{folder}/batch.json") is not None:
                    found[folder] = rounds
        return found

    async def _copy_batches(self, ended: Mapping[str, int]) -> None:
        """Each batch as it stood when `ended` many of its rounds had ended; many small ones together."""
        stages: defaultdict[int, list[ObjectInfo]] = defaultdict(list)
        have: dict[str, int] = {}
        for folder, rounds in ended.items():
            infos = [info async for info in self._source.list(folder)]
            if not any(info.path == f"{folder}/batch.json" for info in infos):
                continue  # it is purged
            for info in infos:
                if (stage := _stage(info.path.removeprefix(f"{folder}/"), rounds)) is not None:
                    stages[stage].append(info)
            have.update(await self._have(folder))
            if sum(map(len, stages.values())) >= _TOGETHER:
                await self._copy_stages(stages, have)
                stages.clear()
                have.clear()
        await self._copy_stages(stages, have)

    async def _copy_stages(self, stages: Mapping[int, list[ObjectInfo]], have: Mapping[str, int]) -> None:
        for stage in sorted(stages):
            await self._copy(stages[stage], have)

    async def _committed(self, kind: str) -> tuple[list[ObjectInfo], list[ObjectInfo]]:
        """Of folders in which some objects, written last, make the others count: the others, and these."""
        commits = {info.path async for info in self._source.list(kind) if info.path.endswith(_COMMITS)}
        infos = [info async for info in self._source.list(kind) if not _moves(info.path)]
        others = [info for info in infos if not info.path.endswith(_COMMITS)]
        return others, [info for info in infos if info.path in commits]

    async def _copy_committed(self, kind: str, found: tuple[list[ObjectInfo], list[ObjectInfo]]) -> None:
        have = await self._have(kind)
        for infos in found:
            await self._copy(infos, have)

    async def _copy_audit(self) -> None:
        """Open groups in their order, up to a gap; then the days that were closed meanwhile; then where all begins."""
        have = await self._have("audit")
        for day in await self._source.folders("audit/open"):
            infos = [info async for info in self._source.list(f"audit/open/{day}")]
            whole = [info for number, info in enumerate(infos, start=1) if info.path.endswith(f"/{number:09d}.jsonl")]
            await self._copy(whole, have)
        await self._copy([info async for info in self._source.list("audit") if info.path.count("/") == 1], have)

    async def _copy_folder(self, folder: str) -> None:
        """All objects below a folder, of which there may be millions: both listings are walked side by side."""
        there = aiter(self._target.list(folder))
        at = await anext(there, None)
        some: list[ObjectInfo] = []
        async for info in self._source.list(folder):
            while at is not None and at.path < info.path:
                at = await anext(there, None)
            if at is not None and (at.path, at.size) == (info.path, info.size) and not _changes(info.path):
                self._kept += 1
                continue
            some.append(info)
            if len(some) == _TOGETHER:
                await self._copy(some, {})
                some = []
        await self._copy(some, {})

    async def _have(self, folder: str) -> Mapping[str, int]:
        return {info.path: info.size async for info in self._target.list(folder)}

    async def _copy(self, infos: Iterable[ObjectInfo], have: Mapping[str, int]) -> None:
        """Copies objects in this order, some together; one that is deleted meanwhile is left out."""
        some: list[ObjectInfo] = []
        for info in infos:
            if have.get(info.path) == info.size and not _changes(info.path):
                self._kept += 1
            elif info.size > _SMALL_BYTES:
                await self._copy_large(info)
            else:
                some.append(info)
                if len(some) == _TOGETHER or sum(one.size for one in some) > _TOGETHER_BYTES:
                    await self._copy_small(some)
                    some = []
        await self._copy_small(some)

    async def _copy_small(self, infos: list[ObjectInfo]) -> None:
        found = await self._source.get_many([info.path for info in infos])
        objects = [(info.path, data) for info, data in zip(infos, found, strict=True) if data is not None]
        created = await self._target.create_many(objects)
        for (path, data), is_new in zip(objects, created, strict=True):
            if not is_new:  # an earlier copy has it otherwise
                await self._target.put(path, data)
        self._objects += len(objects)
        self._bytes += sum(len(data) for _, data in objects)

    async def _copy_large(self, info: ObjectInfo) -> None:
        try:
            await self._target.put_stream(info.path, self._pieces(info))
        except ObjectMissing:
            return
        self._objects += 1
        self._bytes += info.size

    async def _pieces(self, info: ObjectInfo) -> AsyncIterator[bytes]:
        for start in range(0, info.size, _PIECE_BYTES):
            yield await self._source.get_range(info.path, start, min(_PIECE_BYTES, info.size - start))

    async def _read(self, infos: AsyncIterator[ObjectInfo]) -> dict[str, bytes]:
        paths = [info.path async for info in infos]
        found = await self._source.get_many(paths)
        return {path: data for path, data in zip(paths, found, strict=True) if data is not None}


async def _get(store: ObjectStore, path: str) -> bytes:
    """The object, or nothing when there is none."""
    try:
        return await store.get(path)
    except ObjectMissing:
        return b""


async def _has_objects(store: ObjectStore) -> bool:
    async for _ in store.list(""):
        return True
    return False


def _moves(path: str) -> bool:
    """Whether the object is an alias, or counts of a shadow: read before the versions that they are of."""
    return "/aliases/" in path or "/shadow/" in path


def _changes(path: str) -> bool:
    """Whether an object of this name can be replaced, as far as is known, and so may differ from an earlier copy."""
    kind = path.partition("/")[0]
    if kind == "optimizations":  # whoever goes on with one writes its report again
        return path.endswith(("/progress.json", "/trials.json", "/report.json", "/report.html"))
    return kind not in KINDS or path.endswith(("/manifest.sig", "audit/start.json"))


def _stage(name: str, ended: int) -> int | None:
    """When an object of a batch ("results/0/000001.json") is copied: behind what was there before it was written.

    None: not at all, since it is of a round that begins after the `ended` ones and the one behind them, or its end.
    """
    kind, _, rest = name.partition("/")
    digits = rest.partition("/")[0].removesuffix(".json")
    if kind not in {"final", "output", "results", "rounds", "stops"} or not digits.isdecimal():
        return int(name == "batch.json")
    number = int(digits)
    # The output of a round without end is not decided yet.
    if number > ended or (number == ended and kind in {"final", "output"}):
        return None
    return 2 + 3 * number + {"rounds": 0, "final": 2}.get(kind, 1)
