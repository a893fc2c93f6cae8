"""What it costs to tell callers apart: `python -m benchmarks.access_cost`, on a real server and a real socket."""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc.aio

from gramserve.access.directory import Directory
from gramserve.access.editing import AccessEditor
from gramserve.access.file import AccessFile, PrincipalEntry
from gramserve.access.principal import Role
from gramserve.access.rules import rules_of
from gramserve.metrics import Metrics
from gramserve.rpc.access import AccessControl
from gramserve.rpc.channel import open_channel
from gramserve.v1 import slide_batch_pb2, slide_batch_service_pb2, slide_batch_service_pb2_grpc

CALLS = 20_000
OTHERS = 1_000
SERVICE = "gramserve.v1.SlideBatchService"


class Timed(AccessControl):
    """Notes how long each caller waits at the door, in microseconds; nothing else runs meanwhile."""

    def __init__(self, directory: Directory) -> None:
        super().__init__(directory, rules_of([SERVICE]))
        self.waited_us: list[float] = []

    def _let_in(self, request: Any, context: Any, rule: Any) -> Any:
        started = time.perf_counter_ns()
        found = super()._let_in(request, context, rule)
        self.waited_us.append((time.perf_counter_ns() - started) / 1000)
        return found


class Desk(slide_batch_service_pb2_grpc.SlideBatchServiceServicer):
    """Answers at once."""

    async def GetSlideBatch(self, request: Any, context: Any) -> slide_batch_pb2.SlideBatch:  # noqa: N802
        """An empty batch."""
        return slide_batch_pb2.SlideBatch()


async def measure() -> list[float]:
    """Microseconds at the door of each call, by a token, among a thousand other principals."""
    with tempfile.TemporaryDirectory() as folder:
        editor = AccessEditor(Path(folder) / "access.yaml")
        names = range(OTHERS)
        entries = [PrincipalEntry(name=f"p{n}", roles=(Role.SUBMITTER,), laboratories=(f"l{n}",)) for n in names]
        editor.path.write_bytes(AccessFile(principals=tuple(entries)).to_yaml())
        editor.path.chmod(0o600)
        token = editor.create_token("p7", timedelta(days=1)).text
        door = Timed(Directory(editor.path, Metrics()))
        server = grpc.aio.server(interceptors=[door])
        slide_batch_service_pb2_grpc.add_SlideBatchServiceServicer_to_server(Desk(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with open_channel(f"127.0.0.1:{port}") as channel:
            stub: Any = slide_batch_service_pb2_grpc.SlideBatchServiceStub(channel)
            request = slide_batch_service_pb2.GetSlideBatchRequest(name="laboratories/l7/slideBatches/b-0001")
            for _ in range(CALLS):
                await stub.GetSlideBatch(request, metadata=(("authorization", f"Bearer {token}"),))
        await server.stop(0)
        return door.waited_us


if __name__ == "__main__":
    waited = sorted(asyncio.run(measure()))
    sys.stdout.write(
        f"{len(waited)} calls among {OTHERS} principals: median {statistics.median(waited):.1f} us, "
        f"95 % below {waited[int(0.95 * len(waited))]:.1f} us\n"
    )
