"""A night in a few seconds on a real stack: slides that succeed, fail, crash, expire, are cancelled, and that wait."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import grpc.aio
import numpy as np
from numpy.typing import NDArray

from gramserve.access.principal import Role
from gramserve.client import GramserveClient
from gramserve.night.window import Night as CalendarNight
from gramserve.oip.open_inference_pb2_grpc import GRPCInferenceServiceStub
from gramserve.queue import connect
from gramserve.rpc.channel import open_channel
from gramserve.runtime.tally import REFERENCE
from gramserve.samples import LABELS
from gramserve.store.objects import open_store
from gramserve.store.registry import Registry
from gramserve.tls.authority import SERVICES, Authority
from gramserve.tls.options import TlsOptions
from gramserve.v1.slide_batch_pb2 import SlideBatch, SlideSource
from optimizer_svc.app import App
from optimizer_svc.settings import OptimizerSettings
from tests.artifacts import COLOURS, coloured_file, publish_tiny
from tests.deploy.prometheus import Prometheus, require, scraping
from tests.doors.callers import Callers
from tests.doors.test_signatures import Keys
from tests.e2e.running import Up
from tests.inference.hooks import FOLDER
from tests.inference.oip import tile_request, tiles_of
from tests.night.nights import NightStore
from tests.optimizer_service.conftest import SCRIPTED, Caller
from tests.waiting import until

WORKERS = 2
GOOD = 60
HELD = 150
BANDS = {f"0.{tenth}": 0.0 for tenth in range(10)}
SHARES = {"labels": dict.fromkeys(LABELS, 0.2), "bands": {**BANDS, "0.9": 1.0}}
# A night's backlog lasts for ten minutes, this one's for seconds.
SHORTER = {"min_over_time(gramserve:queue_ready:slides[10m])": "min_over_time(gramserve:queue_ready:slides[5s])"}
TERMINAL = {SlideBatch.STATE_SUCCEEDED, SlideBatch.STATE_PARTIALLY_SUCCEEDED, SlideBatch.STATE_FAILED}
TERMINAL |= {SlideBatch.STATE_CANCELLED, SlideBatch.STATE_EXPIRED}


@dataclass(slots=True)
class Night:
    """The stack, its Prometheus and when it all began, Unix seconds."""

    up: Up
    hooks: Path
    client: GramserveClient
    optimizer: Caller
    prometheus: Prometheus
    tls: TlsOptions
    token_file: str
    since: float

    async def passes(self) -> None:
        """All that can happen to slides and models happens; at the end work is held up, and slides wait."""
        await self._slides_of_all_kinds()
        await self._same_pixels_and_stat()
        await self._inference_requests()
        await until(self._shadow_ran, what="the shadow ran its slides")
        await self._optimizations()
        await self._work_is_held_up()

    async def _slides_of_all_kinds(self) -> None:
        good = [
            await self.client.upload_slide(f"good-{n}", [coloured_file(LABELS[n % len(LABELS)], 320, 320 + n)])
            for n in range(GOOD)
        ]
        unsure = (np.array(COLOURS["GNR"], float) + np.array(COLOURS["GPR"])) / 2
        fields = {
            "mixed": [coloured_file("GNR", 64, 64), coloured_file("GPR", 64, 64)],
            "unsure": [_picture(unsure)],
            "poison": [coloured_file("GNR", 72, 72)],
            **{f"broken-{n}": [b"no picture %d" % n] for n in range(8)},
            "small": [coloured_file("GNR", 8, 8)],
        }
        bad = [await self.client.upload_slide(name, images) for name, images in fields.items()]
        poison = bad[2].images[0].sha256
        (self.hooks / f"crash-{poison}").touch()
        batch = await self.client.create_batch([*good, *bad], model="models/gram", deliver_by=_in(hours=1))
        await self._ended(batch)
        await self.client.retry_batch(batch.name)
        await self._ended(batch)

    async def _same_pixels_and_stat(self) -> None:
        again = await self.client.upload_slide("again", [coloured_file("GNR", 64, 64), coloured_file("GPR", 64, 64)])
        await self._ended(await self.client.create_batch([again], model="models/gram"))
        for number in range(WORKERS + 1):  # one at a time: a worker's first one is the beginning of its series
            slide = await self.client.inline_slide(f"stat-{number}", [coloured_file("GPR", 65 + number, 64)])
            await self.client.classify_slide(slide, model="models/gram")
            await until(partial(self._stat_slides_seen, number + 1), what="the STAT slide is counted")

    async def _stat_slides_seen(self, count: int) -> bool:
        return await self.prometheus.value('sum(gramserve_slide_seconds_count{priority="STAT"})') >= count

    async def _inference_requests(self) -> None:
        async with open_channel(self.up.address("worker-1"), tls=self.tls, token_file=self.token_file) as channel:
            stub = GRPCInferenceServiceStub(channel)

            async def answered() -> bool:
                with suppress(grpc.aio.AioRpcError):  # its only child may have died of a slide just now
                    return bool(await stub.ModelInfer(tile_request(tiles_of(["GNR", "GPR"])), timeout=30))
                return False

            await until(answered, what="the worker answers")

    async def _shadow_ran(self) -> bool:
        return await self.prometheus.value('gramserve_shadow_slides_total{verdict="SAME"}') >= 50

    async def _optimizations(self) -> None:
        for scenario in ("finishes", "breaks"):
            await self.optimizer.ended((await self.optimizer.create(scenario)).name)
        running = await self.optimizer.create("waits_after_a_stage")
        await self.optimizer.when(running.name, lambda now: now.progress.fraction >= 0.5)

    async def _work_is_held_up(self) -> None:
        """Every child runs a slide that does not end; others wait, expire and are cancelled."""
        held = await self.client.upload_slide("held", [coloured_file("GNR", 80, 80)])
        os.mkfifo(self.hooks / f"hold-{held.images[0].sha256}")
        slides = [_named(held, f"held-{n}") for n in range(HELD)]
        await self.client.create_batch(slides, model="models/gram", deliver_by=_in(minutes=50), reuse_results=False)
        runs = self.hooks / f"runs-{held.images[0].sha256}"
        await until(lambda: runs.exists() and runs.read_text().count("\n") >= WORKERS, 60, "children are held up")
        late = await self.client.create_batch(
            [_named(held, f"late-{n}") for n in range(3)], model="models/gram", deliver_by=_in(seconds=4)
        )
        dropped = await self.client.create_batch([_named(held, f"dropped-{n}") for n in range(3)], model="models/gram")
        await self.client.cancel_batch(dropped.name)
        await self._ended(late)
        await self._ended(dropped)

    async def _ended(self, batch: SlideBatch) -> None:
        async def ended() -> bool:
            return (await self.client.get_batch(batch.name)).state in TERMINAL

        await until(ended, 120, "the batch ends")


@asynccontextmanager
async def night(folder: Path) -> AsyncIterator[Night]:
    """A gateway, two workers, an optimizer whose search is a script, a night report, all with TLS, and a Prometheus.

    Redis has a limit of memory, and a second version runs in the shadow of the first.
    """
    require()
    folder.mkdir()
    authority = Authority.create(folder / "certs")
    for service in SERVICES:
        authority.issue(service, hosts=(service, "localhost", "127.0.0.1"))
    tls = TlsOptions(ca_file=str(folder / "certs" / "ca.pem"))
    callers = Callers(folder)
    token_file = str(folder / "token")
    Path(token_file).write_text(callers.add("everybody", Role, ["*"]))
    hooks = folder / "hooks"
    hooks.mkdir()
    keys = Keys(folder / "keys")
    registry = Registry(open_store(str(folder / "up" / "store")), signer=keys.signer)
    validated: dict[str, Any] = {"evaluation": {REFERENCE: SHARES}}
    await publish_tiny(registry, **validated)
    version, _ = await publish_tiny(registry, promote=False, sharpness=70.0, **validated)
    await registry.promote("gram", version, "shadow", share=1.0)
    await _last_night(NightStore(open_store(str(folder / "up" / "store"))))
    first = _free_ports(WORKERS + 3)
    up = Up(
        folder / "up",
        *("--no-optimizer", "--workers", str(WORKERS), "--children", str(WORKERS)),
        *("--metrics-port", str(first), "--tls-dir", str(folder / "certs")),
        environment={
            FOLDER: str(hooks),
            "GRAMSERVE_ACCESS_FILE": str(callers.path),
            "GRAMSERVE_TRUSTED_KEYS_FILE": str(keys.trusted),
            "GRAMSERVE_TEST_CHILD_HOOK": "tests.inference.hooks:obey",
            "GRAMSERVE_WORKER_STOP_GRACE_S": "1",
            "GRAMSERVE_WORKER_RETRY_DELAY_S": "0.2",
            "GRAMSERVE_GATEWAY_RETENTION_UPLOADS_DAYS": "1",
            "GRAMSERVE_REPORT_AT": "00:00",
        },
    )
    ports = {
        "gateway": [first],
        "worker": list(range(first + 1, first + 1 + WORKERS)),
        "optimizer": [first + WORKERS + 1],
        "report": [first + WORKERS + 2],
    }
    try:
        await up.ready()
        url = f"unix://{quote(str(up.folder / 'redis' / 'redis.sock'))}"
        redis = connect(url)
        await redis.config_set("maxmemory", "512mb")
        await redis.aclose()
        app = App(_optimizer(folder, url, ports["optimizer"][0]), job_command=(sys.executable, *SCRIPTED[1:]))
        await app.start()
        try:
            async with (
                open_channel(f"127.0.0.1:{app.port}", tls=tls, token_file=token_file) as channel,
                GramserveClient(up.address("gateway"), tls=tls, token_file=token_file) as client,
                scraping(folder / "prometheus", ports, folder / "certs" / "ca.pem", shorter=SHORTER) as prometheus,
            ):

                async def all_are_up() -> bool:
                    return await prometheus.value("up") == WORKERS + 3

                since = datetime.now(UTC).timestamp()
                await until(all_are_up, 60, "Prometheus scrapes everything")
                yield Night(up, hooks, client, Caller(app, channel), prometheus, tls, token_file, since)
        finally:
            await app.stop()
    finally:
        await up.stop()


async def _last_night(store: NightStore) -> None:
    """A batch of yesterday, of which there is a report to write."""
    yesterday = datetime.now(UTC).astimezone().date() - timedelta(days=1)
    at = CalendarNight.of(yesterday).begin
    batch = await store.batch("yesterday", 1, at=at)
    await store.succeeded(batch, 0)
    await store.end(batch, "S", at + 3600)


def _optimizer(folder: Path, redis_url: str, metrics_port: int) -> OptimizerSettings:
    return OptimizerSettings(
        store_url=str(folder / "up" / "store"),
        redis_url=redis_url,
        work_folder=str(folder / "optimizer"),
        listen="127.0.0.1:0",
        metrics_port=metrics_port,
        tls_cert_file=str(folder / "certs" / "optimizer.pem"),
        tls_key_file=str(folder / "certs" / "optimizer.key"),
        access_file=str(folder / "access.yaml"),
        lease_s=3.0,
        poll_s=0.05,
        retry_s=0.1,
        stop_grace_s=5.0,
    )


def _picture(colour: NDArray[np.float64]) -> bytes:
    """A field of one colour between two labels, of which the model is not sure."""
    done, data = cv2.imencode(".png", np.full((64, 64, 3), colour[::-1], np.uint8))
    assert done
    return data.tobytes()


def _named(slide: SlideSource, slide_id: str) -> SlideSource:
    copy = SlideSource()
    copy.CopyFrom(slide)
    copy.slide_id = slide_id
    return copy


def _in(**time: float) -> datetime:
    return datetime.now(UTC) + timedelta(**time)


def _free_ports(count: int) -> int:
    """The first of `count` ports in a row on which nobody listens."""
    for first in _candidates():
        sockets = []
        try:
            for port in range(first, first + count):
                probe = socket.socket()
                sockets.append(probe)
                probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        finally:
            for probe in sockets:
                probe.close()
        return first
    raise AssertionError("no ports in a row are free")


def _candidates() -> Iterator[int]:
    """Away from the ports that the kernel gives out, beginning at one of this process's own."""
    for n in range(400):
        yield 20000 + (os.getpid() * 16 + n * 16) % 10000
