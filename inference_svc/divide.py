"""A whole slide that is too large for one child: its parts on all children, and their readings together in one call."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace

from gramserve.errors import Reason
from inference_svc.children import Children
from inference_svc.depth import SHALLOWEST
from inference_svc.protocol import MAX_BLOB_BYTES, Combine, Divide, Failed, Part, RunSlide, join_blobs
from inference_svc.work import Ending, Ticket, Withdrawn

TRIES = 3
"""How often a part is given to a child when the child that had it died before it began."""


async def run_divided(children: Children, slide: RunSlide, divide: Divide, *, gone: Callable[[], bool]) -> Ending:
    """How `slide` ended: Finished, or as its first part that did not end well; parts not begun are then taken back.

    No more parts are given to the children than they can hold, so that other slides come between them. `gone` says
    that the lease was lost: nothing more is begun then.
    """
    waiting = deque(range(divide.shards))
    running: dict[asyncio.Future[Ending], tuple[int, Ticket]] = {}
    parts: dict[int, bytes] = {}
    tries: Counter[int] = Counter()
    try:
        while waiting or running:
            if gone():
                return Withdrawn()
            while waiting and len(running) < SHALLOWEST * children.count:
                number = waiting.popleft()
                ticket = children.run(replace(slide, shard=number, shards=divide.shards, blob=divide.blob))
                running[ticket.ending] = number, ticket
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for future in done:
                number, _ = running.pop(future)
                ending = future.result()
                if isinstance(ending, Part):
                    parts[number] = ending.blob
                    continue
                tries[number] += 1
                if not isinstance(ending, Withdrawn) or tries[number] >= TRIES:
                    return ending
                waiting.appendleft(number)
    finally:
        for _, ticket in running.values():
            children.withdraw(ticket)
    blob = join_blobs([parts[number] for number in range(divide.shards)])
    if len(blob) > MAX_BLOB_BYTES:
        return Failed(0, Reason.IMAGE_TOO_LARGE, "The whole slide has too many tiles for one call.", retryable=False)
    return await children.run(Combine(0, slide.version, slide.digest, slide.specimen_type, blob)).ending
