"""A real Prometheus that scrapes a stack of this machine as deploy/prometheus/prometheus.yml says, and its answers."""

from __future__ import annotations

import asyncio
import json
import math
import re
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.promql import RULES
from tests.exposition import free_port
from tests.sources import ROOT
from tests.waiting import HANGS_S, until

# What Grafana puts in: a night of ten minutes, looked at closely.
MACROS = {"$__range": "10m", "$__rate_interval": "30s", "$__interval": "30s", "$model": ".*"}
STEP_S = 2


class Prometheus:
    """A running one."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"

    async def ready(self) -> bool:
        """Whether it answers."""
        try:
            await asyncio.to_thread(self._read, "/-/ready")
        except OSError:
            return False
        return True

    async def instant(self, expr: str) -> list[dict[str, Any]]:
        """The series of a query now, those that have a finite value."""
        found = await self._ask("query", query=expr)
        assert found["resultType"] == "vector", (expr, found["resultType"])
        return [one for one in found["result"] if math.isfinite(float(one["value"][1]))]

    async def range(self, expr: str, start: float, end: float) -> list[dict[str, Any]]:
        """The series of a query over time, those that have a finite value at any time."""
        found = await self._ask("query_range", query=expr, start=str(start), end=str(end), step=str(STEP_S))
        assert found["resultType"] == "matrix", (expr, found["resultType"])
        return [one for one in found["result"] if any(math.isfinite(float(value)) for _, value in one["values"])]

    async def value(self, expr: str) -> float:
        """The sum of what a query returns now; 0 where that is nothing."""
        return sum(float(one["value"][1]) for one in await self.instant(expr))

    async def names(self) -> set[str]:
        """All names of series."""
        return set(await self._ask("label/__name__/values"))

    async def label_values(self, metric: str, label: str) -> set[str]:
        """The values of a label of a metric."""
        return {one[label] for one in await self._ask("series", **{"match[]": metric}) if label in one}

    async def rules(self) -> list[dict[str, Any]]:
        """All rules as Prometheus evaluated them last."""
        return [rule for group in (await self._ask("rules"))["groups"] for rule in group["rules"]]

    async def alerts(self, *states: str) -> dict[str, dict[str, str]]:
        """Alerts that are in one of these states (pending, firing) now, each with its annotations."""
        alerts = (await self._ask("alerts"))["alerts"]
        return {one["labels"]["alertname"]: one["annotations"] for one in alerts if one["state"] in states}

    async def _ask(self, path: str, **parameters: str) -> Any:
        answer = await asyncio.to_thread(self._read, f"/api/v1/{path}?{urllib.parse.urlencode(parameters)}")
        return json.loads(answer)["data"]

    def _read(self, path: str) -> bytes:
        try:
            with urllib.request.urlopen(self._url + path, timeout=HANGS_S) as answer:
                data: bytes = answer.read()
                return data
        except urllib.error.HTTPError as error:
            if error.code == 503:
                raise
            raise AssertionError(f"{urllib.parse.unquote_plus(path)}: {error.read().decode()}") from None


def as_grafana_asks(expr: str) -> str:
    """A query of a panel with what Grafana puts in."""
    for macro, value in MACROS.items():
        expr = expr.replace(macro, value)
    return expr


def require() -> None:
    """Skips the test where there is no Prometheus."""
    if shutil.which("prometheus") is None:
        pytest.skip("there is no Prometheus here; on Debian: apt install prometheus")


@asynccontextmanager
async def scraping(
    folder: Path, targets: Mapping[str, Sequence[int]], ca_file: Path, *, shorter: Mapping[str, str]
) -> AsyncIterator[Prometheus]:
    """A Prometheus that scrapes the ports of each job by HTTPS, every second, and evaluates the rules as often.

    `shorter` is put into its copy of the rules: what they look at for longer than a test runs.
    """
    folder.mkdir()
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    for scrape in config["scrape_configs"]:
        assert scrape.pop("dns_sd_configs")
        scrape["static_configs"] = [{"targets": [f"127.0.0.1:{port}" for port in targets[scrape["job_name"]]]}]
        scrape["tls_config"]["ca_file"] = str(ca_file)
    assert {scrape["job_name"] for scrape in config["scrape_configs"]} == set(targets)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    (folder / "rules").mkdir()
    for path in RULES.glob("*.yml"):
        text = re.sub(r"interval: \S+", "interval: 1s", path.read_text())
        for long, short in shorter.items():
            text = text.replace(long, short)
        (folder / "rules" / path.name).write_text(text)
    port = free_port()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        prometheus = Prometheus(port)

        async def ready() -> bool:
            assert process.poll() is None, (folder / "log").read_text()
            return await prometheus.ready()

        await until(ready, 60, "Prometheus is ready")
        yield prometheus
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 30)
