"""What the children use of the machine: real processes, as the kernel counts them."""

from __future__ import annotations

import asyncio
import sys

from inference_svc.usage import Usage
from tests.waiting import until

BURN = "import sys\nwhile True: pass"
HOLD = "held = bytearray(b'x' * (64 << 20))\nprint('held', flush=True)\ninput()"


async def test_cpu_time_of_a_child_stays_counted_when_it_has_ended() -> None:
    pids: list[int] = []
    usage = Usage(lambda: pids)
    before = usage.cpu_s()
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", BURN)
    pids.append(child.pid)
    await until(lambda: usage.cpu_s() > before + 0.2)
    alive = usage.cpu_s()
    pids.clear()  # it is not one of those that can work any more, and not yet buried
    assert usage.cpu_s() >= alive
    child.kill()
    await child.wait()
    assert usage.cpu_s() >= alive


async def test_memory_is_that_of_the_children_that_live() -> None:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLD, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    await child.stdout.readline()
    usage = Usage(lambda: [child.pid])
    assert 64 * 2**20 < usage.memory_bytes() < 128 * 2**20
    await child.communicate(b"\n")
    assert usage.memory_bytes() == 0
