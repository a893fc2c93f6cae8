"""Redis and the services of one machine: which there are, how they find each other, in which order."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from gramserve.errors import GramserveError, PreconditionFailed, Reason, Unavailable
from gramserve.local import tether
from gramserve.local.service import FIRST_BACKOFF_S, LONGEST_BACKOFF_S, Service, ServiceSpec
from gramserve.queue import EmbeddedRedis

WATCH_REDIS_S = 0.2
_EVERYWHERE = {"0.0.0.0", "::"}  # noqa: S104 - only recognized here
STOP_GRACE_S = 30.0


@dataclass(frozen=True, slots=True)
class StackOptions:
    """What to run and where: everything is kept below `data_dir`; ports listen on `host`, 0 takes a free one.

    `metrics_port` P > 0 shows metrics of the gateway at P, of the workers at P + 1 ..., then of the optimizer and
    of the night report.
    `children` are the child processes of all workers together; 0 is one for each CPU that may be used. `tls_dir` has
    the certificates that `gramserve certs init` made; with `client_certificates` callers must show one, too.
    `store_url` is a store elsewhere, such as s3://bucket/prefix.
    """

    data_dir: Path
    gateway_port: int = 50051
    optimizer_port: int = 50053
    workers: int = 1
    optimizer: bool = True
    metrics_port: int = 0
    children: int = 0
    host: str = "127.0.0.1"
    tls_dir: Path | None = None
    client_certificates: bool = False
    store_url: str = ""


FEW_ARENAS = {"MALLOC_ARENA_MAX": "2"}
"""glibc gives threads heaps of their own, which fill slowly: in 20,000 slides a worker grew by 5 %, with two by 2 %."""


QUIET_GRPC = {"GRPC_VERBOSITY": "ERROR"}
"""gRPC's core writes a line of its own for everybody who is turned away: whoever likes could fill the logs."""


class Stack:
    """The services of one machine. `say` is given one line for each thing that a person should know."""

    def __init__(self, options: StackOptions, say: Callable[[str], None]) -> None:
        self._options = options
        self._say = say
        self._dir = options.data_dir.absolute()
        self._redis = EmbeddedRedis(self._dir / "redis", launcher=tether.launcher())
        self._services: list[Service] = []
        self._keepers: list[asyncio.Task[None]] = []
        self._lock: IO[str] | None = None
        host = options.host
        self._host = f"[{host}]" if ":" in host else host
        self._shown = "127.0.0.1" if host in _EVERYWHERE else self._host  # where this machine finds them

    def address(self, name: str) -> str:
        """Where the service "gateway", "worker-1" or "optimizer" listens; KeyError when it was not started."""
        return {service.name: f"{self._shown}:{service.port}" for service in self._services}[name]

    async def start(self) -> None:
        """Start everything, one after the other; returns when all of it serves.

        Raises PreconditionFailed when the folder is in use or a package is missing, Unavailable or Unsafe when a part
        does not start; whatever had started is stopped then.
        """
        self._check_packages()
        self._dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self._dir / "logs").mkdir(mode=0o700, exist_ok=True)
        self._take_lock()
        try:
            await self._redis.start()
            assert self._redis.binary is not None
            kind = {"path": "from PATH", "bundled": "bundled"}[self._redis.binary.origin]
            self._say(f"redis       {self._redis.binary.version} ({kind}), data in {self._dir / 'redis'}")
            self._keepers.append(asyncio.create_task(self._keep_redis()))
            for spec in self._specs():
                service = Service(spec, self._dir / "logs" / f"{spec.name}.log", self._say)
                self._services.append(service)
                await service.start()
                where = f"{self._shown}:{service.port}, " if service.port else ""
                self._say(f"{spec.name:<11} {where}log in {service.log}{_metrics(spec)}")
                self._keepers.append(asyncio.create_task(service.keep()))
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop workers and optimizer, which release what they hold, then the gateway, then Redis."""
        gateway = [service for service in self._services if service.name == "gateway"]
        others = [service for service in self._services if service.name != "gateway"]
        for group in (others, gateway):
            await asyncio.gather(*(service.stop(STOP_GRACE_S) for service in group))
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        await self._redis.stop()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _specs(self) -> list[ServiceSpec]:
        """The gateway first, as it makes the store; workers share the usable CPUs between their children."""
        options = self._options
        shared = {
            "GRAMSERVE_STORE_URL": options.store_url or str(self._dir / "store"),
            "GRAMSERVE_REDIS_URL": self._redis.url,
            "GRAMSERVE_LOG_FORMAT": "json",
            **QUIET_GRPC,
        }
        metrics = [options.metrics_port + n if options.metrics_port else -1 for n in range(options.workers + 3)]
        gateway = {
            **self._secured("gateway"),
            "GRAMSERVE_GATEWAY_METRICS_HOST": options.host,
            "GRAMSERVE_GATEWAY_LISTEN": f"{self._host}:{{port}}",
            "GRAMSERVE_GATEWAY_METRICS_PORT": str(metrics[0]),
        }
        gateway |= FEW_ARENAS
        specs = [ServiceSpec("gateway", "gateway", shared | gateway, options.gateway_port)]
        cpus = options.children or len(os.sched_getaffinity(0))
        for number, children in enumerate(shares(cpus, options.workers), start=1):
            worker = {
                **self._secured("worker"),
                "GRAMSERVE_WORKER_METRICS_HOST": options.host,
                "GRAMSERVE_WORKER_LISTEN": f"{self._host}:{{port}}",
                "GRAMSERVE_WORKER_METRICS_PORT": str(metrics[number]),
                "GRAMSERVE_WORKER_CHILDREN": str(children),
                **FEW_ARENAS,
            }
            specs.append(ServiceSpec(f"worker-{number}", "inference_svc", shared | worker))
        reports = {
            **(self._secured("report") if options.metrics_port else {}),
            "GRAMSERVE_REPORT_METRICS_HOST": options.host,
            "GRAMSERVE_REPORT_METRICS_PORT": str(metrics[-1]),
            "GRAMSERVE_REPORT_FOLDER": str(self._dir / "reports"),
        }
        specs.append(ServiceSpec("report", "gramserve.night", shared | reports))
        if options.optimizer:
            optimizer = {
                **self._secured("optimizer"),
                "GRAMSERVE_OPTIMIZER_METRICS_HOST": options.host,
                "GRAMSERVE_OPTIMIZER_LISTEN": f"{self._host}:{{port}}",
                "GRAMSERVE_OPTIMIZER_METRICS_PORT": str(metrics[-2]),
                "GRAMSERVE_OPTIMIZER_WORK_FOLDER": str(self._dir / "optimizer"),
            }
            specs.append(ServiceSpec("optimizer", "optimizer_svc", shared | optimizer, options.optimizer_port))
        return specs

    def _secured(self, name: str) -> dict[str, str]:
        """The TLS files of the service `name`; relative names hold where `gramserve up` was started."""
        if self._options.tls_dir is None:
            return {}
        folder = self._options.tls_dir.absolute()
        files = {
            "GRAMSERVE_TLS_CERT_FILE": str(folder / f"{name}.pem"),
            "GRAMSERVE_TLS_KEY_FILE": str(folder / f"{name}.key"),
        }
        if self._options.client_certificates:
            files["GRAMSERVE_TLS_CLIENT_CA_FILE"] = str(folder / "ca.pem")
        return files

    def _check_packages(self) -> None:
        needs = [("worker", package, "without it nothing runs slides") for package in ("onnxruntime", "jinja2")]
        if self._options.optimizer:
            needs.append(("optimizer", "torch", "or start without it: --no-optimizer"))
        for extra, package, remark in needs:
            if importlib.util.find_spec(package) is None:
                raise PreconditionFailed(
                    Reason.INVALID_SETTINGS, f"{package} is missing: pip install 'gramserve[{extra}]' ({remark})"
                )

    def _take_lock(self) -> None:
        lock = (self._dir / "up.lock").open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            owner = lock.read().strip()
            lock.close()
            raise PreconditionFailed(
                Reason.INVALID_SETTINGS,
                f"another `gramserve up` (process {owner or 'unknown'}) already runs on {self._dir}; stop it first",
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        self._lock = lock

    async def _keep_redis(self) -> None:
        backoff_s = FIRST_BACKOFF_S
        while True:
            await asyncio.sleep(WATCH_REDIS_S)
            if self._redis.alive:
                continue
            self._say(f"redis ended; starting it again in {backoff_s:g} s")
            await asyncio.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, LONGEST_BACKOFF_S)
            try:
                await self._redis.start()
            except GramserveError as error:
                self._say(f"redis did not start: {error.message}")
            else:
                self._say("redis is ready again")
                backoff_s = FIRST_BACKOFF_S


def shares(cpus: int, workers: int) -> list[int]:
    """Child processes of each worker: the CPUs divided as evenly as they go, at least one each."""
    each, more = divmod(max(cpus, workers), workers)
    return [each + (number < more) for number in range(workers)]


async def serve(stack: Stack, stop: asyncio.Event, say: Callable[[str], None]) -> None:
    """Run `stack` until `stop` is set; says "ready" in between."""
    starting = asyncio.create_task(stack.start())
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():  # asked to stop while starting
        starting.cancel()
        with contextlib.suppress(asyncio.CancelledError, Unavailable):
            await starting
        return
    stopped_early = starting.exception()
    if stopped_early is not None:
        stopped.cancel()
        raise stopped_early
    say("ready")
    await stopped
    await stack.stop()


def _metrics(spec: ServiceSpec) -> str:
    """Where the metrics of a service are: ", metrics on port 9101"; nothing when it shows none."""
    ports = [value for name, value in spec.environment.items() if name.endswith("_METRICS_PORT") and value != "-1"]
    return f", metrics on port {ports[0]}" if ports else ""
