"""Where nobody is told apart only this machine may call, unless a setting says otherwise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.app import App as Gateway
from gateway.settings import GatewaySettings
from gramserve.access.opening import open_access
from gramserve.access.principal import Role
from gramserve.errors import InvalidInput, Reason, Unsafe
from gramserve.metrics import Metrics
from gramserve.settings import SharedSettings
from inference_svc.app import App as Worker
from inference_svc.settings import WorkerSettings
from optimizer_svc.app import App as Optimizer
from optimizer_svc.settings import OptimizerSettings
from tests.doors.callers import Callers

APPS: dict[str, Callable[..., Any]] = {
    "gateway": lambda **given: Gateway(GatewaySettings(**given)),
    "worker": lambda **given: Worker(WorkerSettings(**given)),
    "optimizer": lambda **given: Optimizer(OptimizerSettings(**given)),
}


@pytest.mark.parametrize("listen", ["127.0.0.1:50051", "127.8.9.1:1", "[::1]:0", "localhost:1", "unix:/run/g.sock"])
def test_what_only_this_machine_can_reach_is_local(listen: str) -> None:
    assert open_access(SharedSettings(), listen, Metrics()) is None


@pytest.mark.parametrize(
    "listen", ["0.0.0.0:50051", "[::]:50051", ":50051", "10.0.0.1:1", "gateway.hospital.example:1", "localhost.evil:1"]
)
def test_what_others_can_reach_needs_an_access_file_or_leave(listen: str, tmp_path: Path) -> None:
    with pytest.raises(Unsafe) as refused:
        open_access(SharedSettings(), listen, Metrics())
    assert refused.value.reason is Reason.INSECURE_LISTENER
    assert open_access(SharedSettings(allow_anonymous=True), listen, Metrics()) is None
    callers = Callers(tmp_path)
    callers.add("ada", [Role.AUDITOR])
    assert open_access(SharedSettings(access_file=str(callers.path)), listen, Metrics()) is not None


@pytest.mark.parametrize("service", sorted(APPS))
async def test_each_service_refuses_to_start_where_strangers_could_call(service: str, tmp_path: Path) -> None:
    with pytest.raises(Unsafe, match="GRAMSERVE_ACCESS_FILE") as refused:
        await APPS[service](listen="0.0.0.0:0", metrics_port=-1, store_url=str(tmp_path / "store")).start()
    assert refused.value.reason is Reason.INSECURE_LISTENER


@pytest.mark.parametrize("service", sorted(APPS))
async def test_each_service_refuses_to_start_without_the_access_file_it_was_told(service: str, tmp_path: Path) -> None:
    settings = {"access_file": str(tmp_path / "none.yaml"), "store_url": str(tmp_path / "store"), "metrics_port": -1}
    with pytest.raises(InvalidInput, match="the access file cannot be used: no such file") as refused:
        await APPS[service](listen="127.0.0.1:0", **settings).start()
    assert refused.value.reason is Reason.INVALID_SETTINGS
