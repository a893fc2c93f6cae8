"""Whether the store can be relied on, has room, and how long a durable write takes."""

from __future__ import annotations

import asyncio
import os
import secrets
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from gramserve.cli.checks.finding import Finding, Health
from gramserve.cli.checks.machine import check_disk
from gramserve.errors import GramserveError
from gramserve.store.objects import ObjectStore, open_store
from gramserve.store.paths import is_remote

WRITES = 9
OBJECT_BYTES = 4096
SLOW_WRITE_S = 0.05
SLOW_REMOTE_WRITE_S = 0.5
PATIENCE_S = 30.0


def missing(url: str, data_dir: Path) -> Finding | None:
    """Whether the folder of the store at `url`, else the data folder, could be made, when it is not there.

    It is not made: it may be mistyped.
    """
    if not url:
        return None if data_dir.exists() else check_folder(data_dir)
    folder = Path(unquote(urlsplit(url).path))
    if is_remote(url) or folder.exists():
        return None
    return check_folder(folder, "make it, or set GRAMSERVE_STORE_URL")


def check_folder(folder: Path, advice: str = "choose another --data-dir") -> Finding:
    """Whether a folder that does not exist yet could be made; makes nothing."""
    parent = next(path for path in folder.absolute().parents if path.exists())
    if parent.is_dir() and os.access(parent, os.W_OK | os.X_OK):
        return Finding("store", Health.OK, f"{folder} is not there yet; it can be made")
    return Finding("store", Health.FAILED, f"{folder} cannot be made", advice)


async def check_store(
    url: str, *, clock: Callable[[], float] = time.perf_counter, patience_s: float = PATIENCE_S
) -> list[Finding]:
    """Whether the store at `url` keeps what is written, how fast, and whether it has room; leaves nothing in it."""
    remote = is_remote(url)
    advice = (
        "see AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT and GRAMSERVE_STORE_URL"
        if remote
        else "make it writable for this user or set GRAMSERVE_STORE_URL"
    )
    try:
        async with asyncio.timeout(patience_s):
            store = open_store(url)
            await store.probe()
            write_s = await _write_s(store, clock)
    except GramserveError as error:
        return [Finding("store", Health.FAILED, f"{url}: {error.message}", advice)]
    except TimeoutError:
        return [Finding("store", Health.FAILED, f"{url}: no answer within {patience_s:.0f} s", advice)]
    findings = [Finding("store", Health.OK, f"{url} can be written"), judge_write(write_s, remote=remote)]
    if not remote:
        findings.append(check_disk(Path(unquote(urlsplit(url).path)), name="store space"))
    return findings


def judge_write(write_s: float, *, remote: bool) -> Finding:
    """Whether `write_s` seconds for a small durable write are few enough."""
    found = f"{write_s * 1e3:.1f} ms for a durable write of {OBJECT_BYTES // 1024} KiB (median of {WRITES})"
    if write_s <= (SLOW_REMOTE_WRITE_S if remote else SLOW_WRITE_S):
        return Finding("store speed", Health.OK, found)
    advice = (
        "every batch and every result waits for such writes: use a bucket in the same place"
        if remote
        else "every batch and every result waits for such writes: use a local SSD, no network file system"
    )
    return Finding("store speed", Health.WARNING, found, advice)


async def _write_s(store: ObjectStore, clock: Callable[[], float]) -> float:
    """Seconds that a durable write of a small object takes, the median of some."""
    data, took = secrets.token_bytes(OBJECT_BYTES), []
    for _ in range(WRITES):
        path = f"probe/{secrets.token_hex(8)}"
        begun = clock()
        await store.create(path, data)
        took.append(clock() - begun)
        await store.delete(path)
    return statistics.median(took)
