"""Another release comes while slides run: workers of both side by side, the older one drained, nothing lost."""

from __future__ import annotations

import signal
from importlib.metadata import version
from pathlib import Path

import pytest

from gramserve.queue.format import FORMAT
from gramserve.v1.slide_batch_pb2 import Image, SlideSource
from tests.faults import checker
from tests.faults.harness import STATE, Service, Site, free_port
from tests.faults.test_kills import outcomes
from tests.operations.doctor import doctor
from tests.operations.releases import Release
from tests.waiting import until

OLDER = "0.0.9"


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return Release(tmp_path_factory.mktemp("older") / "release", OLDER)


async def test_I1_I2_I14_a_worker_of_an_older_release_is_drained_while_a_newer_one_takes_over(
    site: Site,
    older: Release,
    tmp_path: Path,
) -> None:
    await site.gateway()
    ports = [free_port(), free_port()]
    first = await site.worker(metrics_port=ports[0], **older.options)
    running = site.picture("hold")
    name = await site.create([running, *site.pictures(*["ok"] * 30)])
    await site.held(running)
    second = await site.worker(metrics_port=ports[1])
    urls = [f"http://127.0.0.1:{port}/metrics" for port in ports]
    said = await doctor(tmp_path, "--peer", urls[0], "--peer", urls[1])
    assert said.found(f"service at {urls[0]}") == f"gramserve {OLDER}, here {version('gramserve')}"
    assert [said.health(f"service at {url}") for url in urls] == ["warning", "ok"]

    others = site.pictures(*["slow"] * 3)
    both = await site.create(others)
    await until(lambda: any(site.runs(image) for image in others), what="the newer worker runs slides, too")
    assert first.alive
    first.send(signal.SIGTERM)  # what `docker stop`, systemd and Kubernetes send
    site.let_go(running)
    assert await first.ended() == 0
    last = await site.create(site.pictures(*["ok"] * 5))

    found = await checker.check(site)
    assert found.ended == {"SUCCEEDED": 39}
    assert (found.crashes, found.lost, found.duplicated) == (0, 0, 0)
    ended = {batch: (await outcomes(site, batch)).values() for batch in (name, both, last)}
    older_id, newer_id = [(await worker.logged("worker started"))["worker"] for worker in (first, second)]
    assert {one.worker_id for some in ended.values() for one in some} == {older_id, newer_id}
    assert {one.worker_id for one in ended[last]} == {newer_id}
    assert {one.attempts for some in ended.values() for one in some} == {1}, "a drained worker charges nothing"


async def test_I1_I2_a_gateway_of_another_release_takes_over_between_two_slides(
    site: Site,
    older: Release,
) -> None:
    """One after the other at the same address, as a rolling restart does."""
    gateway = await site.gateway(**older.options)
    await site.worker()
    held = site.picture("hold")
    name = await site.create([held, *site.pictures("ok", "ok")])
    await site.held(held)
    assert await gateway.term() == 0
    await site.gateway()
    site.let_go(held)
    await site.ended(name)
    found = await checker.check(site)
    assert found.ended == {"SUCCEEDED": 3}


async def test_I15_releases_that_keep_the_queue_otherwise_refuse_each_other_and_say_what_to_do(
    site: Site,
    tmp_path: Path,
) -> None:
    newer = Release(tmp_path / "newer", "9.0.0")
    newer.change("gramserve/queue/format.py", f'FORMAT = "{FORMAT}"', 'FORMAT = "999"')
    gateway, worker = await site.gateway(), await site.worker()
    await site.create(site.pictures("ok"))
    await site.ended()

    for role in ("gateway", "worker", "optimizer"):
        if role == "optimizer":
            await site.redis_client.set("{gs:optimizations}:format", FORMAT)
        refused = await site.service(role, ready=False, listen="127.0.0.1:0", **newer.options)
        assert await refused.ended() == 2
        assert "another release" in _last(refused)
        assert "FLUSHDB" in _last(refused)

    # The other way round: Redis was emptied and the newer one has begun; what still runs of the older must not go on.
    await site.redis_client.flushdb()
    takes_over = await site.gateway(listen="127.0.0.1:0", **newer.options)
    client, image = site.client(takes_over.port), site.picture("ok")
    batch = await client.create_batch([SlideSource(slide_id="S", images=[Image(content=image)])], model="models/gram")
    assert await worker.ended() == 2
    assert "another release" in _last(worker)
    assert not site.runs(image)
    await gateway.logged("not serving")
    await site.worker(**newer.options)

    async def succeeded() -> bool:
        return (await client.get_batch(batch.name)).state == STATE.STATE_SUCCEEDED

    await until(succeeded)


async def test_I15_a_store_of_another_release_is_refused_by_every_service(site: Site) -> None:
    await site.objects.put("format.json", b'{"format":2}')
    for role in ("gateway", "worker", "optimizer"):
        refused = await site.service(role, ready=False)
        assert await refused.ended() == 2
        assert "this store was made by another release of gramserve (format 2, here 1)" in _last(refused)


def _last(service: Service) -> str:
    return str(service.log[-1]["event"])
