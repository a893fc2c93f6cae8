"""A Redis with a replica and three Sentinels that watch it, real processes on free ports of the loopback."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, aclosing, asynccontextmanager, suppress
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from gramserve.queue.embedded import Origin, find_server
from tests.doors.laboratory import Laboratory
from tests.services import ServerKind, require
from tests.waiting import until

SERVICE = "gram"
PATIENT_MS, HASTY_MS = 60_000, 500
"""How long a master must be silent to be replaced: one that lives, on a busy machine, and one that was killed."""
PASSWORD, SENTINEL_PASSWORD = "of redis", "of/sentinels"
_ORIGIN: Mapping[ServerKind, Origin] = {"bundled": "bundled", "system": "path"}


class Watched:
    """`url` is where gramserve connects; `ports` are those of the two servers, the first master's first."""

    def __init__(self, folder: Path, kind: ServerKind) -> None:
        require(kind)
        found = find_server(_ORIGIN[kind])
        assert found is not None
        self._program = str(found.path)
        self._folder = folder
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        first, second, *sentinels = free_ports(5)
        self.ports = (first, second)
        self.sentinels = tuple(sentinels)
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.sentinels)
        self.url = (
            f"redis+sentinel://:{PASSWORD.replace(' ', '%20')}@{hosts}/{SERVICE}/0"
            f"?sentinel_password={SENTINEL_PASSWORD.replace('/', '%2F')}"
        )

    async def start(self) -> None:
        """All five run, the replica is in step and every Sentinel knows the others."""
        for port in self.ports:
            self.start_server(port)
        await until(self._in_step, what="the replica is in step")  # else a Sentinel sees it at its next look, in 10 s
        for port in self.sentinels:
            self._start(
                port,
                f'requirepass "{SENTINEL_PASSWORD}"',
                f"sentinel monitor {SERVICE} 127.0.0.1 {self.ports[0]} 2",
                f'sentinel auth-pass {SERVICE} "{PASSWORD}"',
                f'sentinel sentinel-pass "{SENTINEL_PASSWORD}"',
                f"sentinel down-after-milliseconds {SERVICE} {PATIENT_MS}",
                f"sentinel failover-timeout {SERVICE} 5000",
                sentinel=True,
            )
        await until(self._settled, what="the Sentinels know the master, its replica and one another")

    def start_server(self, port: int) -> None:
        """Starts the server of this port, as the replica of the first one unless it is that."""
        role = [] if port == self.ports[0] else [f"replicaof 127.0.0.1 {self.ports[0]}"]
        words = ("appendonly yes", 'save ""', "maxmemory-policy noeviction", "repl-diskless-sync-delay 0")
        self._start(port, *words, f'requirepass "{PASSWORD}"', f'masterauth "{PASSWORD}"', *role)

    async def kill(self, port: int) -> None:
        """kill -9 of the process of this port; the Sentinels that run notice it soon."""
        await self._end(port)
        for other in self.sentinels:
            if other in self._processes:
                async with aclosing(self._sentinel(other)) as sentinel:
                    await sentinel.sentinel_set(SERVICE, "down-after-milliseconds", HASTY_MS)

    async def names(self, port: int) -> None:
        """Returns when every Sentinel that runs names the server of this port as the master."""

        async def all_do() -> bool:
            for sentinel_port in self.sentinels:
                if sentinel_port in self._processes:
                    async with aclosing(self._sentinel(sentinel_port)) as sentinel:
                        _host, found = await sentinel.sentinel_get_master_addr_by_name(SERVICE)
                    if int(found) != port:
                        return False
            return True

        await until(all_do, what=f"the Sentinels name {port} as the master")

    async def stop(self) -> None:
        """Nothing of it is left."""
        for port in (*self.sentinels, *self.ports):
            if port in self._processes:
                await self._end(port)

    def client(self, port: int) -> Redis:
        """A client of one server, whatever its role."""
        return Redis(port=port, password=PASSWORD, decode_responses=True)

    async def _end(self, port: int) -> None:
        process = self._processes.pop(port)
        process.kill()
        await asyncio.to_thread(process.wait, 10)

    def _start(self, port: int, *lines: str, sentinel: bool = False) -> None:
        home = self._folder / str(port)
        home.mkdir(parents=True, exist_ok=True)
        file = home / "redis.conf"
        if not file.exists():  # servers and Sentinels write what they learned into it
            file.write_text("\n".join((f"port {port}", "bind 127.0.0.1", f"dir {home}", *lines)) + "\n")
        with (home / "log").open("ab") as log:
            self._processes[port] = subprocess.Popen(
                [self._program, str(file), *(["--sentinel"] if sentinel else [])], stdout=log, stderr=log
            )

    def _sentinel(self, port: int) -> Redis:
        return Redis(port=port, password=SENTINEL_PASSWORD, decode_responses=True)

    async def _in_step(self) -> bool:
        with suppress(RedisError):
            async with aclosing(self.client(self.ports[1])) as replica:
                return (await replica.info("replication"))["master_link_status"] == "up"
        return False

    async def _settled(self) -> bool:
        try:
            for port in self.sentinels:
                async with aclosing(self._sentinel(port)) as sentinel:
                    state = await sentinel.sentinel_master(SERVICE)
                    if (state["num-other-sentinels"], state["num-slaves"]) != (2, 1):
                        return False
                    (replica,) = await sentinel.sentinel_slaves(SERVICE)
                    if replica["master-link-status"] != "ok":
                        return False
        except RedisError:
            return False
        return True


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody listens at now, no two the same."""
    with ExitStack() as probes:
        bound = [probes.enter_context(socket.socket()) for _ in range(count)]
        for probe in bound:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in bound]


@asynccontextmanager
async def watched_redis(folder: Path, kind: ServerKind) -> AsyncIterator[Watched]:
    """Master, replica and Sentinels, in step."""
    made = Watched(folder, kind)
    try:
        await made.start()
        yield made
    finally:
        await made.stop()


@asynccontextmanager
async def encrypted_redis(folder: Path, laboratory: Laboratory) -> AsyncIterator[str]:
    """The address of one Redis and one Sentinel of the system that both speak TLS only and want certificates."""
    require("system")
    found = find_server("path")
    assert found is not None
    redis_port, sentinel_port = free_ports(2)
    shared = (
        *("port 0", "bind 127.0.0.1", "tls-auth-clients yes", "tls-replication yes"),
        *(f"tls-cert-file {laboratory.file('service.pem')}", f"tls-key-file {laboratory.file('service.key')}"),
        f"tls-ca-cert-file {laboratory.file('ca.pem')}",
    )
    watch = (f"sentinel monitor {SERVICE} 127.0.0.1 {redis_port} 1",)
    processes = []
    for name, port, lines in (("redis", redis_port, ()), ("sentinel", sentinel_port, watch)):
        home = folder / name
        home.mkdir(parents=True)
        file = home / f"{name}.conf"
        file.write_text("\n".join((f"tls-port {port}", f"dir {home}", *shared, *lines)) + "\n")
        command = [str(found.path), str(file), *(["--sentinel"] if name == "sentinel" else [])]
        processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    tls = {
        f"ssl_{name}": laboratory.file(file)
        for name, file in (("ca_certs", "ca.pem"), ("certfile", "client.pem"), ("keyfile", "client.key"))
    }

    async def up() -> bool:
        if any(process.poll() is not None for process in processes):
            pytest.skip("the redis-server of the system is built without TLS")
        with suppress(RedisError):
            async with aclosing(Redis(port=sentinel_port, ssl=True, **tls)) as sentinel:
                return "flags" in (state := await sentinel.sentinel_master(SERVICE)) and not state["is_sdown"]
        return False

    try:
        await until(up, what="the Sentinel sees the master")
        yield f"rediss+sentinel://127.0.0.1:{sentinel_port}/{SERVICE}"
    finally:
        for process in processes:
            process.kill()
            await asyncio.to_thread(process.wait, 10)
