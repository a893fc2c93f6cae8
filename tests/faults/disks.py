"""Disks that fail as a test says: full, read-only, broken or slow, at a step of a write of one process or for real.

`install` puts faults between `gramserve.store.disk` and the operating system, in the process that calls it; what
they are stands in a folder that the test writes to. `small_disk` mounts a real file system of a few kilobytes.
"""

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from inference_svc.child import HOOK

FOLDER = "GRAMSERVE_TEST_DISK"
"""The environment variable that names the folder of faults to a process that imports `tests.faults.on_disk`."""

Step = Literal["open", "write", "fsync", "link", "replace", "mkdir", "read"]
STEPS: tuple[Step, ...] = ("open", "write", "fsync", "link", "replace", "mkdir", "read")


class Disk:
    """What the test decides about the disk of all services that were started with `options`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)

    @property
    def options(self) -> dict[str, Any]:
        """Options of `Site.service` that put a service and its children on this disk."""
        environment = {FOLDER: str(self.folder), HOOK: "tests.faults.on_disk:obey"}
        return {"modules": ["tests.faults.on_disk"], "environment": environment}

    def fail(self, *steps: Step, code: int = errno.ENOSPC) -> None:
        """These steps fail with the error `code` until `heal`."""
        for step in steps:
            self._say(step, f"fail {code}")

    def slow(self, *steps: Step, seconds: float) -> None:
        """These steps take so much longer until `heal`."""
        for step in steps:
            self._say(step, f"slow {seconds}")

    def read_only(self) -> None:
        """What a file system does that was mounted read-only, or became so after an error."""
        self.fail("open", "link", "replace", "mkdir", code=errno.EROFS)

    def heal(self) -> None:
        """All is well again."""
        for step in STEPS:
            (self.folder / step).unlink(missing_ok=True)

    def hits(self, *steps: Step) -> int:
        """How often these steps met their fault so far, in all processes; of all steps without one named."""
        files = (self.folder / f"hit-{step}" for step in steps or STEPS)
        return sum(file.stat().st_size for file in files if file.exists())

    def _say(self, step: Step, what: str) -> None:
        # Under its name only when it is whole.
        (self.folder / ".new").write_text(what)
        (self.folder / ".new").rename(self.folder / step)


def install(folder: Path) -> None:
    """From now on the store of this process has the disk that `folder` describes."""
    from gramserve.store import disk

    faults = _Faults(folder)
    real: Any = disk
    read, read_range = disk.read, disk.read_range
    real.os = _FaultyOs(faults)

    def slow_read(name: str) -> bytes:
        faults.meet("read")
        return read(name)

    def slow_read_range(name: str, start: int, length: int) -> bytes:
        faults.meet("read")
        return read_range(name, start, length)

    real.read, real.read_range = slow_read, slow_read_range


class _Faults:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def meet(self, step: Step) -> None:
        """Fails or waits as this step shall; one byte more in its file of hits."""
        try:
            kind, number = (self._folder / step).read_text().split()
        except FileNotFoundError:
            return
        with (self._folder / f"hit-{step}").open("ab") as hits:
            hits.write(b".")
        if kind == "slow":
            time.sleep(float(number))
        else:
            raise OSError(int(number), os.strerror(int(number)))


class _FaultyOs:
    """The module `os` as the store sees it."""

    def __init__(self, faults: _Faults) -> None:
        self._faults = faults

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: str, flags: int, mode: int = 0o777) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            self._faults.meet("open")
        return os.open(path, flags, mode)

    def write(self, descriptor: int, data: memoryview) -> int:
        self._faults.meet("write")
        return os.write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        self._faults.meet("fsync")
        os.fsync(descriptor)

    def link(self, source: str, target: str) -> None:
        self._faults.meet("link")
        os.link(source, target)

    def replace(self, source: str, target: str) -> None:
        self._faults.meet("replace")
        os.replace(source, target)  # noqa: PTH105

    def mkdir(self, path: str, mode: int = 0o777) -> None:
        self._faults.meet("mkdir")
        os.mkdir(path, mode)  # noqa: PTH102


class SmallDisk:
    """A real file system of `size` bytes below `folder`, where this user may mount one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self) -> None:
        """Leaves no free byte."""
        with (self.folder / "ballast").open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"\0" * 4096)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise

    def empty(self) -> None:
        """Gives back what `fill` took."""
        (self.folder / "ballast").unlink()

    def remount(self, option: Literal["ro", "rw"]) -> bool:
        """Read-only, or writable again; False while somebody has a file open for writing."""
        words = ["mount", "-o", f"remount,{option}", str(self.folder)]
        return subprocess.run(words, check=False, capture_output=True).returncode == 0


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[SmallDisk | None]:
    """A file system of its own at `folder`; None where this user may not mount one."""
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    if subprocess.run(words, check=False, capture_output=True).returncode != 0:
        yield None
        return
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
