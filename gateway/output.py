"""The files that are delivered for a batch: slides with and without a result, as JSON Lines, and their digests."""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import asdict, dataclass

from gateway.names import BatchName
from gramserve.store.batches import BatchStore
from gramserve.store.records import BatchRecord, Counts, SlideState

FILE_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class OutputFile:
    """One file of the output as manifest.json lists it."""

    name: str
    sha256: str
    rows: int
    bytes: int


class OutputWriter:
    """Writes the output of one round: `add` each slide in order, then `finish`.

    Results (SUCCEEDED) and errors (all others) go to files of their own, at most `file_rows` lines each; there is
    always a first file of both, be it empty. The same slides always give the same bytes.
    """

    def __init__(self, batches: BatchStore, name: BatchName, number: int, *, file_rows: int = FILE_ROWS) -> None:
        self._batches = batches
        self._name = name
        self._number = number
        self._file_rows = file_rows
        self._files: list[OutputFile] = []
        self._lines: dict[str, list[bytes]] = {"results": [], "errors": []}
        self._written = {"results": 0, "errors": 0}

    async def add(self, state: SlideState, line: bytes) -> None:
        """Takes one slide: its protobuf JSON without a line break."""
        kind = "results" if state is SlideState.SUCCEEDED else "errors"
        self._lines[kind].append(line)
        if len(self._lines[kind]) == self._file_rows:
            await self._put(*self._take(kind))

    async def finish(self, record: BatchRecord, counts: Counts) -> str:
        """Writes what is left and manifest.json, side by side; returns the SHA-256 of the latter."""
        left = [self._take(kind) for kind, lines in self._lines.items() if lines or not self._written[kind]]
        facts = {
            "batch": self._name.resource,
            "round": self._number,
            "model_version": record.model_version,
            "model_digest": record.model_digest,
            "counts": {key: value for key, value in asdict(counts).items() if key not in {"queued", "running"}},
            "files": [asdict(file) for file in sorted(self._files, key=lambda file: file.name)],
        }
        data = json.dumps(facts, indent=1, sort_keys=True).encode() + b"\n"
        # All have ended before one that failed is told: what is written late must not replace what is written next.
        writing = [self._put(name, content) for name, content in (*left, ("manifest.json", data))]
        for failed in await asyncio.gather(*writing, return_exceptions=True):
            if failed is not None:
                raise failed
        return hashlib.sha256(data).hexdigest()

    def _take(self, kind: str) -> tuple[str, bytes]:
        """Name and content of the next file of this kind, which the caller is to write."""
        lines, self._lines[kind] = self._lines[kind], []
        self._written[kind] += 1
        name = f"{kind}-{self._written[kind]:05d}.jsonl"
        data = b"".join(line + b"\n" for line in lines)
        self._files.append(OutputFile(name, hashlib.sha256(data).hexdigest(), len(lines), len(data)))
        return name, data

    async def _put(self, name: str, data: bytes) -> None:
        path = self._batches.output_path(self._name.laboratory, self._name.batch, self._number, name)
        await self._batches.objects.put(path, data)
