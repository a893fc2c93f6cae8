"""What the doctor says of the settings of each service, and of the ports that they name."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.operations.doctor import doctor


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("GRAMSERVE_REDIS_ULR", "GRAMSERVE_REDIS_URL"),
        ("GRAMSERVE_GATEWAY_LISTN", "GRAMSERVE_GATEWAY_LISTEN"),
        ("GRAMSERVE_WORKER_CHILDRENS", "GRAMSERVE_WORKER_CHILDREN"),
        ("GRAMSERVE_OPTIMIZER_CORE", "GRAMSERVE_OPTIMIZER_CORES"),
        ("GRAMSERVE_REPORT_FOLDERS", "GRAMSERVE_REPORT_FOLDER"),
    ],
)
async def test_a_setting_that_there_is_not(name: str, meant: str, tmp_path: Path) -> None:
    said = await doctor(tmp_path, environment={name: "1"})
    assert (said.code, said.health("settings")) == (1, "failed")
    assert said.found("settings").count(f"did you mean {meant}?") == 1


async def test_a_value_that_one_service_cannot_use_hides_no_other_setting(tmp_path: Path) -> None:
    environment = {"GRAMSERVE_WORKER_CHILDREN": "many", "GRAMSERVE_ACCESS_FILE": str(tmp_path / "none")}
    said = await doctor(tmp_path, environment=environment)
    assert "GRAMSERVE_WORKER_CHILDREN" in said.found("settings")
    assert said.health("access") == "failed"


@pytest.fixture
def taken() -> Iterator[int]:
    """A port of this machine on which somebody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
@pytest.mark.parametrize("service", ["gateway", "worker", "optimizer"])
async def test_a_port_that_the_settings_name_is_taken(service: str, host: str, taken: int, tmp_path: Path) -> None:
    setting = f"GRAMSERVE_{service.upper()}_LISTEN"
    said = await doctor(tmp_path, environment={setting: f"{host}:{taken}"})
    name = f"port of the {service}"
    assert (said.code, said.health(name), said.found(name)) == (0, "warning", f"{taken} is taken")
    assert setting in said.advice(name)


async def test_the_port_of_metrics_is_taken(taken: int, tmp_path: Path) -> None:
    said = await doctor(tmp_path, environment={"GRAMSERVE_WORKER_METRICS_PORT": str(taken)})
    assert said.health("port of the worker's metrics") == "warning"
    assert "GRAMSERVE_WORKER_METRICS_PORT" in said.advice("port of the worker's metrics")


async def test_ports_that_are_free_or_any_or_none(tmp_path: Path) -> None:
    with socket.socket() as was:
        was.bind(("127.0.0.1", 0))
        free = was.getsockname()[1]
    environment = {
        "GRAMSERVE_GATEWAY_LISTEN": f"[::]:{free}" if socket.has_dualstack_ipv6() else f"0.0.0.0:{free}",
        "GRAMSERVE_WORKER_LISTEN": "127.0.0.1:0",
        "GRAMSERVE_OPTIMIZER_LISTEN": f"unix:{tmp_path}/optimizer.sock",
        **{f"GRAMSERVE_{name}_METRICS_PORT": "-1" for name in ("GATEWAY", "WORKER", "OPTIMIZER", "REPORT")},
    }
    said = await doctor(tmp_path, environment=environment)
    ports = {name: said.found(name) for name in said.checks if name.startswith("port of ")}
    assert ports == {"port of the gateway": f"{free} is free"}


@pytest.mark.parametrize(
    ("host", "why"),
    [("192.0.2.1", "192.0.2.1 is no address of this machine"), ("gram..lab", "there is no host gram..lab")],
)
async def test_an_address_on_which_no_service_could_listen(host: str, why: str, tmp_path: Path) -> None:
    said = await doctor(tmp_path, environment={"GRAMSERVE_GATEWAY_METRICS_HOST": host})
    name = "port of the gateway's metrics"
    assert (said.code, said.health(name), said.found(name)) == (1, "failed", why)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may listen on every port")
async def test_a_port_that_this_user_may_not_have(tmp_path: Path) -> None:
    lowest = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text(encoding="ascii"))
    if lowest < 2:
        pytest.skip("everybody may listen on every port")
    said = await doctor(tmp_path, environment={"GRAMSERVE_GATEWAY_LISTEN": "127.0.0.1:1"})
    assert (said.code, said.health("port of the gateway")) == (1, "failed")
    assert "may not listen" in said.found("port of the gateway")
