"""deploy/kubernetes against the schemas of Kubernetes and against gramserve: what it names exists and fits."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from gateway.settings import GatewaySettings
from gramserve.metrics import SPECS
from gramserve.night.settings import ReportSettings
from gramserve.settings import SharedSettings, load, table
from inference_svc.settings import WorkerSettings
from optimizer_svc.settings import OptimizerSettings
from tests.sources import ROOT
from tests.waiting import HANGS_S

FOLDER = ROOT / "deploy/kubernetes"
EXAMPLE = "overlays/example"
VERSIONS = ("1.30", kubernetes_validate.latest_version())
"""The oldest Kubernetes that the page names, whose preStop.sleep is on, and the newest one whose schema is at hand."""
SETTINGS: dict[str, type[SharedSettings]] = {
    "gateway": GatewaySettings,
    "worker": WorkerSettings,
    "optimizer": OptimizerSettings,
}
PODS = ("Deployment", "StatefulSet")
SECRETS = {
    *(f"gramserve-{name}-tls" for name in (*SETTINGS, "report", "redis")),
    "gramserve-access",
    "gramserve-store",
}
# What deploy/kubernetes uses of KEDA's ScaledObject (keda.sh/v1alpha1), as its CustomResourceDefinition has it.
BEHAVIOR = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "stabilizationWindowSeconds": {"type": "integer", "minimum": 0, "maximum": 3600},
        "policies": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["type", "value", "periodSeconds"],
                "properties": {
                    "type": {"enum": ["Pods", "Percent"]},
                    "value": {"type": "integer", "minimum": 1},
                    "periodSeconds": {"type": "integer", "minimum": 1, "maximum": 1800},
                },
            },
        },
    },
}
SCALED_OBJECT = {
    "type": "object",
    "additionalProperties": False,
    "required": ["scaleTargetRef", "triggers"],
    "properties": {
        "scaleTargetRef": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}},
        "minReplicaCount": {"type": "integer", "minimum": 0},
        "maxReplicaCount": {"type": "integer", "minimum": 1},
        "pollingInterval": {"type": "integer", "minimum": 1},
        "fallback": {
            "type": "object",
            "additionalProperties": False,
            "required": ["failureThreshold", "replicas"],
            "properties": {
                "failureThreshold": {"type": "integer", "minimum": 0},
                "replicas": {"type": "integer", "minimum": 0},
                "behavior": {
                    "enum": ["static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower"]
                },
            },
        },
        "advanced": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "horizontalPodAutoscalerConfig": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        "behavior": {
                            "type": "object",
                            "additionalProperties": False,
                            "properties": {"scaleUp": BEHAVIOR, "scaleDown": BEHAVIOR},
                        }
                    },
                }
            },
        },
        "triggers": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["type", "metadata"],
                "properties": {
                    "type": {"const": "prometheus"},
                    "name": {"type": "string"},
                    "metricType": {"enum": ["AverageValue", "Value"]},
                    "metadata": {
                        "type": "object",
                        "required": ["serverAddress", "query", "threshold"],
                        "additionalProperties": {"type": "string"},
                    },
                },
            },
        },
    },
}


@cache
def rendered(folder: str) -> tuple[dict[str, Any], ...]:
    """What would be applied."""
    if shutil.which("kubectl"):
        command = ["kubectl", "kustomize", str(FOLDER / folder)]
    elif shutil.which("kustomize"):
        command = ["kustomize", "build", str(FOLDER / folder)]
    else:
        pytest.skip("there is neither kubectl nor kustomize here")
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=HANGS_S)
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


@cache
def written() -> tuple[dict[str, Any], ...]:
    """All objects as they stand in the files, before any overlay."""
    found: list[dict[str, Any]] = []
    for file in sorted((FOLDER / "base").glob("*.yaml")) + sorted((FOLDER / "components").rglob("*.yaml")):
        if file.name != "kustomization.yaml":
            found += yaml.safe_load_all(file.read_text())
    return tuple(found)


def named(kind: str, name: str) -> dict[str, Any]:
    return next(one for one in written() if (one["kind"], one["metadata"]["name"]) == (kind, name))


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and pod specification of everything that runs."""
    for one in written():
        if one["kind"] in PODS:
            yield one["metadata"]["name"], one["spec"]["template"]["spec"]


def container(name: str) -> dict[str, Any]:
    (found,) = dict(pods())[name]["containers"]
    return found  # type: ignore[no-any-return]


def environment(name: str) -> dict[str, str]:
    """The environment of a service; what the cluster fills in is a number here."""
    one = container(name)
    found: dict[str, str] = {}
    for source in one["envFrom"]:
        if "configMapRef" in source:
            found |= named("ConfigMap", source["configMapRef"]["name"])["data"]
    return found | {entry["name"]: entry.get("value", "4") for entry in one["env"]}


def check(found: dict[str, Any]) -> None:
    if found["kind"] == "ScaledObject":
        jsonschema.validate(found["spec"], SCALED_OBJECT)
    else:
        for version in VERSIONS:
            kubernetes_validate.validate(found, version, strict=True)


@pytest.mark.parametrize("found", written(), ids=lambda one: f"{one['kind']}-{one['metadata']['name']}")
def test_every_object_is_what_its_schema_says(found: dict[str, Any]) -> None:
    check(found)


@pytest.mark.parametrize("folder", ["base", EXAMPLE])
def test_what_would_be_applied_is_what_its_schema_says(folder: str) -> None:
    for found in rendered(folder):
        check(found)
        assert found["kind"] == "Namespace" or found["metadata"]["namespace"] == "gramserve"


def test_the_schema_would_see_a_misspelled_word() -> None:
    gateway = {**named("Deployment", "gateway")}
    gateway["spec"] = {**gateway["spec"], "replica": 2}
    with pytest.raises(kubernetes_validate.ValidationError):
        check(gateway)
    worker = {**named("ScaledObject", "worker")}
    worker["spec"] = {**worker["spec"], "maxReplicas": 2}
    with pytest.raises(jsonschema.ValidationError):
        check(worker)


@pytest.mark.parametrize("service", SETTINGS)
def test_every_setting_exists_and_is_understood(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = environment(service)
    known = {row.name for row in table(SETTINGS[service])}
    assert {name for name in given if name.startswith("GRAMSERVE_")} <= known
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = load(SETTINGS[service])
    assert settings.store_url.startswith("s3://")
    assert settings.redis_url.startswith("rediss://")
    assert not any((settings.allow_plaintext, settings.allow_anonymous, settings.allow_volatile_redis))


@pytest.mark.parametrize("service", SETTINGS)
def test_the_files_of_its_settings_are_those_of_its_secrets(service: str) -> None:
    mounted = {mount["mountPath"]: mount["name"] for mount in container(service)["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in dict(pods())[service]["volumes"]}
    secret = {path: volumes[name].get("secret", {}).get("secretName") for path, name in mounted.items()}
    assert secret["/keys"] == f"gramserve-{service}-tls", "its own and no other"
    assert secret["/access"] == "gramserve-access"
    for name, value in environment(service).items():
        if name.endswith("_FILE"):
            assert str(Path(value).parent) in secret, name
            assert value.startswith("/access/") or Path(value).name in {"tls.crt", "tls.key", "ca.crt"}


@pytest.mark.parametrize("service", SETTINGS)
def test_a_pod_may_take_a_lease_and_its_own_grace_to_end(service: str) -> None:
    settings = load(SETTINGS[service])
    own = getattr(settings, "stop_grace_s", getattr(settings, "shutdown_grace_s", 0.0))
    waits = container(service).get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    grace = dict(pods())[service]["terminationGracePeriodSeconds"]
    assert grace >= waits + settings.lease_s + 5
    assert grace >= waits + 2 * own + 5


@pytest.mark.parametrize("service", SETTINGS)
def test_probes_ask_the_service_and_never_restart_one_for_what_is_not_its_fault(service: str) -> None:
    one = container(service)
    probe = ["python", "-m", "gramserve.rpc.probe"]
    assert one["readinessProbe"]["exec"]["command"] == probe
    assert one["livenessProbe"]["exec"]["command"] == [*probe, "--alive"]
    assert one["startupProbe"]["exec"]["command"] == [*probe, "--alive"]
    assert (ROOT / "gramserve/rpc/probe.py").exists()
    assert all(one[name]["timeoutSeconds"] > 4 for name in ("readinessProbe", "livenessProbe", "startupProbe"))


@pytest.mark.parametrize("name", [name for name, _pod in pods()])
def test_no_pod_has_more_than_it_needs(name: str) -> None:
    pod, one = dict(pods())[name], container(name)
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert one["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert one["resources"]["limits"]["memory"] == one["resources"]["requests"]["memory"]
    assert one["resources"]["requests"]["cpu"]
    for volume in pod["volumes"]:
        assert set(volume) & {"secret", "emptyDir", "configMap"}, "nothing of the node"
        if "secret" in volume:
            assert volume["secret"]["defaultMode"] == 0o440
            assert volume["secret"]["secretName"] in SECRETS


def test_what_selects_finds_something_and_its_ports_exist() -> None:
    labels = {name: named_pod["metadata"]["labels"] for name, named_pod in _templates()}
    ports = {name: {port["name"] for port in container(name).get("ports", [])} for name in labels}
    for found in written():
        spec = found.get("spec", {})
        if found["kind"] == "Service":
            chosen = [name for name, its in labels.items() if spec["selector"].items() <= its.items()]
            assert chosen == [found["metadata"]["name"]]
            assert {port["targetPort"] for port in spec["ports"]} <= ports[chosen[0]]
        elif found["kind"] == "PodDisruptionBudget":
            assert spec["selector"]["matchLabels"] in [*labels.values()]
        elif found["kind"] == "NetworkPolicy":
            chosen = [name for name, its in labels.items() if _selects(spec["podSelector"], its)]
            assert chosen
            for rule in spec.get("ingress", []):
                assert {port["port"] for port in rule["ports"]} <= set.intersection(*(ports[name] for name in chosen))


def test_every_service_is_kept_up_while_nodes_are_emptied() -> None:
    for service in SETTINGS:
        assert named("PodDisruptionBudget", service)["spec"]["maxUnavailable"] == 1


def test_the_night_report_reads_the_store_that_the_services_write(monkeypatch: pytest.MonkeyPatch) -> None:
    one = container("report")
    assert one["command"] == ["python", "-m", "gramserve.night"]
    assert {"secretRef": {"name": "gramserve-store"}} in one["envFrom"]
    for entry in one["env"]:
        asked = entry.get("valueFrom", {}).get("configMapKeyRef")
        value = named("ConfigMap", asked["name"])["data"][asked["key"]] if asked else entry["value"]
        monkeypatch.setenv(entry["name"], value)
    settings = load(ReportSettings)
    assert settings.store_url == environment("worker")["GRAMSERVE_STORE_URL"]
    assert settings.folder in {mount["mountPath"] for mount in one["volumeMounts"]}
    claims = {claim["metadata"]["name"] for claim in named("StatefulSet", "report")["spec"]["volumeClaimTemplates"]}
    assert "reports" in claims
    assert settings.metrics_port == one["ports"][0]["containerPort"]
    assert (settings.tls_cert_file, settings.tls_key_file) == ("/keys/tls.crt", "/keys/tls.key")
    secrets = {volume["secret"]["secretName"] for volume in dict(pods())["report"]["volumes"] if "secret" in volume}
    assert secrets == {"gramserve-report-tls"}


def test_nothing_talks_to_anything_unless_it_is_said() -> None:
    policy = named("NetworkPolicy", "nothing-by-default")["spec"]
    assert policy == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_workers_follow_metrics_that_exist() -> None:
    scaled = named("ScaledObject", "worker")["spec"]
    assert named("Deployment", scaled["scaleTargetRef"]["name"])
    specs = {f"gramserve_{spec.name}": spec for spec in SPECS}
    for trigger in scaled["triggers"]:
        query = trigger["metadata"]["query"]
        names = re.findall(r"gramserve_\w+", query)
        assert names
        for name in names:
            asked = set(re.findall(r"(\w+)=", query)) | set(re.findall(r"by \((\w+)\)", query))
            assert asked <= set(specs[name].labels), query
        assert float(trigger["metadata"]["threshold"]) > 0
    assert "AverageValue" in {trigger["metricType"] for trigger in scaled["triggers"]}, "the fallback needs one"


def test_the_number_of_workers_is_set_once() -> None:
    for folder, fixed in (("base", True), (EXAMPLE, False)):
        (worker,) = (
            one for one in rendered(folder) if (one["kind"], one["metadata"]["name"]) == ("Deployment", "worker")
        )
        assert ("replicas" in worker["spec"]) is fixed


def test_images_of_an_installation_are_of_one_version() -> None:
    found = {
        one["metadata"]["name"]: one["spec"]["template"]["spec"]["containers"][0]["image"]
        for one in rendered(EXAMPLE)
        if one["kind"] in PODS
    }
    assert all(re.search(r":[^:/]+$", image) and not image.endswith(":latest") for image in found.values()), found
    assert len({found[service].rpartition(":")[2] for service in SETTINGS}) == 1


def test_redis_is_set_as_in_compose() -> None:
    ours, composed = (
        (ROOT / path / "redis.conf").read_text() for path in ("deploy/kubernetes/components/redis", "deploy/compose")
    )
    assert ours == composed
    mounted = {mount["mountPath"] for mount in container("redis")["volumeMounts"]}
    assert {"/keys", "/var/lib/redis"} <= mounted
    limit = container("redis")["resources"]["limits"]["memory"]
    assert limit == "1Gi", "maxmemory 768mb and room for a rewrite of the file"


def test_the_page_names_every_secret() -> None:
    page = (ROOT / "docs/kubernetes.md").read_text()
    assert [secret for secret in sorted(SECRETS) if f"`{secret}`" not in page] == []


def _templates() -> Iterator[tuple[str, dict[str, Any]]]:
    for one in written():
        if one["kind"] in PODS:
            yield one["metadata"]["name"], one["spec"]["template"]


def _selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    if not selector.get("matchLabels", {}).items() <= labels.items():
        return False
    return all(labels.get(rule["key"]) in rule["values"] for rule in selector.get("matchExpressions", []))
