"""Containers are confined as docs/containers.md says: read from the files that make them."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from gateway.settings import GatewaySettings
from gramserve.night.settings import ReportSettings
from inference_svc.settings import WorkerSettings
from optimizer_svc.settings import OptimizerSettings
from tests.sources import ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "deploy/docker/Dockerfile").read_text()
OURS = [name for name, service in SERVICES.items() if service["image"].startswith("gramserve-")]


def test_the_stack_is_what_the_page_names() -> None:
    ours = {"keys", "gateway", "worker", "optimizer", "report", "client"}
    assert ours | {"redis", "prometheus", "grafana"} == set(SERVICES)


@pytest.mark.parametrize("name", SERVICES)
def test_no_container_has_more_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert "privileged" not in service
    assert "cap_add" not in service
    assert not [volume for volume in service.get("volumes", []) if "docker.sock" in volume]


@pytest.mark.parametrize("name", sorted(set(SERVICES) - set(OURS)))
def test_images_of_others_run_as_nobody_in_particular(name: str) -> None:
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", SERVICES[name]["user"])


def test_our_images_end_as_nobody_in_particular() -> None:
    stages = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]
    runtime = next(stage for stage in stages if stage.splitlines()[0].endswith(" AS runtime"))
    assert re.search(r"^USER 10001:10001$", runtime, re.MULTILINE)
    for name in ("gateway", "worker", "optimizer"):
        stage = next(stage for stage in stages if stage.splitlines()[0].endswith(f" AS {name}"))
        assert stage.startswith("runtime ")
        assert "USER" not in stage


def test_each_volume_that_our_containers_write_is_made_in_the_image_for_them() -> None:
    """One whose folder the image lacks would belong to root."""
    made = set(re.findall(r"(?<= )/[\w/]+", DOCKERFILE.partition("install -d")[2].partition("\nUSER")[0]))
    mounts = [volume.split(":") for name in OURS for volume in SERVICES[name]["volumes"]]
    written = {mount[1] for mount in mounts if mount[0] in COMPOSE["volumes"] and mount[2:] != ["ro"]}
    assert "/keys/report" in written
    assert written - made == set()


@pytest.mark.parametrize("name", ["redis", "gateway", "worker", "optimizer"])
def test_every_service_says_whether_it_serves_and_has_a_bound(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"][0] == "CMD"
    assert SERVICES[name]["mem_limit"]
    assert SERVICES[name]["stop_grace_period"]


@pytest.mark.parametrize("name", ["gateway", "worker", "optimizer"])
def test_every_service_speaks_TLS_and_tells_callers_apart(name: str) -> None:
    environment = SERVICES[name]["environment"]
    assert environment["GRAMSERVE_TLS_CERT_FILE"]
    assert environment["GRAMSERVE_ACCESS_FILE"]
    assert environment["GRAMSERVE_REDIS_URL"].startswith("rediss://")
    assert "GRAMSERVE_ALLOW_PLAINTEXT" not in environment
    assert "GRAMSERVE_ALLOW_ANONYMOUS" not in environment


def test_what_makes_the_reports_reaches_nothing_but_Prometheus() -> None:
    (network,) = SERVICES["report"]["networks"]
    assert COMPOSE["networks"][network]["internal"] is True
    assert [name for name, service in SERVICES.items() if network in service.get("networks", [])] == [
        "report",
        "prometheus",
    ]
    assert "default" in SERVICES["prometheus"]["networks"]


def test_every_service_of_ours_is_scraped_by_its_name_over_TLS() -> None:
    jobs = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"]
    settings = {
        "gateway": GatewaySettings,
        "worker": WorkerSettings,
        "optimizer": OptimizerSettings,
        "report": ReportSettings,
    }
    assert [job["job_name"] for job in jobs] == [*settings]
    for job in jobs:
        name = job["job_name"]
        (found,) = job["dns_sd_configs"]
        assert (found["names"], found["port"]) == ([name], settings[name]().metrics_port)
        assert (job["scheme"], job["tls_config"]["server_name"]) == ("https", name)
        environment = SERVICES[name]["environment"]
        (host,) = [value for key, value in environment.items() if key.endswith("_METRICS_HOST")]
        assert (host, environment["GRAMSERVE_TLS_CERT_FILE"]) == ("0.0.0.0", "/keys/cert.pem")


def test_nothing_is_published_beyond_this_machine() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published
    assert [port for port in published if not port.startswith("127.0.0.1:")] == []


def test_each_service_sees_its_own_key_and_no_other() -> None:
    for name, service in SERVICES.items():
        keys = [volume.split(":")[0] for volume in service.get("volumes", []) if volume.startswith("keys-")]
        assert name == "keys" or keys == [f"keys-{name}"], name
        assert name == "keys" or not [volume for volume in service.get("volumes", []) if "authority" in volume]


def test_redis_keeps_what_it_was_told() -> None:
    lines = (ROOT / "deploy/compose/redis.conf").read_text().splitlines()
    assert {"port 0", "tls-auth-clients yes", "appendonly yes", "maxmemory-policy noeviction"} <= set(lines)


def test_what_a_build_sees_is_named() -> None:
    lines = (ROOT / ".dockerignore").read_text().split()
    assert lines[0] == "*"
    assert all((ROOT / line[1:]).exists() for line in lines if line.startswith("!"))
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    for path in " ".join(copied).split():
        assert f"!{path}" in lines
