"""Children fill the cores and give way to whatever a STAT slide has to pass."""

from __future__ import annotations

import ctypes
import os
import platform
import struct

import pytest

from inference_svc.giving_way import NICE, SLICE_S
from tests.inference.bench import Bench

_KERNEL = tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2])
needs_slices = pytest.mark.skipif(_KERNEL < (6, 12), reason="a kernel without slices of their own")


async def test_children_are_nicer_than_their_worker_in_every_thread(bench: Bench) -> None:
    await bench.publish()
    async with bench.worker(children=1) as worker:
        [child] = worker.children.pids
        wanted = os.getpriority(os.PRIO_PROCESS, 0) + NICE
        assert {os.getpriority(os.PRIO_PROCESS, int(thread)) for thread in _threads(child)} == {wanted}


@needs_slices
async def test_children_have_longer_slices_than_their_worker_in_every_thread(bench: Bench) -> None:
    await bench.publish()
    async with bench.worker(children=1) as worker:
        [child] = worker.children.pids
        assert {slice_s(int(thread)) for thread in _threads(child)} == {SLICE_S}
        assert 0 < slice_s(0) < SLICE_S


def slice_s(process: int) -> float:
    """The slice of a process, seconds, by sched_getattr(2); raises OSError."""
    attributes = struct.Struct("=IIQiIQQQ")
    found = ctypes.create_string_buffer(attributes.size)
    number = {"x86_64": 315, "aarch64": 275}[platform.machine()]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(number, process, found, attributes.size, 0):
        raise OSError(ctypes.get_errno(), "sched_getattr")
    return float(attributes.unpack(found.raw)[5]) / 1e9


def _threads(process: int) -> list[str]:
    return os.listdir(f"/proc/{process}/task")  # noqa: PTH208
