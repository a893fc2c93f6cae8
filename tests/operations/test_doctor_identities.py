"""What the doctor says of certificates, keys and tokens."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gramserve.access.editing import AccessEditor
from gramserve.access.file import PrincipalEntry
from gramserve.access.principal import Role
from gramserve.cli import app
from gramserve.metrics import Metrics
from gramserve.tls.authority import Authority
from gramserve.tls.options import TlsOptions
from gramserve.tls.service import Tls
from tests.operations.doctor import Said, doctor

NOW = datetime.now(UTC)


def certificates(
    folder: Path, *, hosts: tuple[str, ...] = ("localhost", "gram.lab"), days: int = 365
) -> dict[str, str]:
    """The settings of a gateway with a certificate of so many days; 0 or less is the past."""
    authority = Authority.create(folder / "certs", now=NOW - timedelta(days=400))
    authority.issue("gateway", hosts=hosts, days=400 + days)
    return {
        "GRAMSERVE_TLS_CERT_FILE": str(folder / "certs" / "gateway.pem"),
        "GRAMSERVE_TLS_KEY_FILE": str(folder / "certs" / "gateway.key"),
        "GRAMSERVE_TLS_CLIENT_CA_FILE": str(folder / "certs" / "ca.pem"),
    }


async def look(folder: Path, environment: dict[str, str], *words: str) -> Said:
    return await doctor(folder, *words, environment=environment)


async def test_certificates_that_hold_long_enough(tmp_path: Path) -> None:
    said = await look(tmp_path, certificates(tmp_path), "--host", "gram.lab")
    names = [name for name in said.checks if name.startswith("certificate")]
    assert names == ["certificate (service)", "certificate (client_ca)", "certificate names"]
    assert {said.health(name) for name in names} == {"ok"}


async def test_a_certificate_that_ends_soon(tmp_path: Path) -> None:
    said = await look(tmp_path, certificates(tmp_path, days=10))
    assert (said.code, said.health("certificate (service)")) == (0, "warning")
    assert "gramserve certs renew" in said.advice("certificate (service)")
    assert said.health("certificate (client_ca)") == "ok"


async def test_a_certificate_that_has_ended(tmp_path: Path) -> None:
    said = await look(tmp_path, certificates(tmp_path, days=-1))
    assert (said.code, said.health("certificates")) == (1, "failed")
    assert "has expired" in said.found("certificates")


async def test_a_key_that_others_can_read(tmp_path: Path) -> None:
    environment = certificates(tmp_path)
    Path(environment["GRAMSERVE_TLS_KEY_FILE"]).chmod(0o644)
    said = await look(tmp_path, environment)
    assert (said.code, said.health("certificates")) == (1, "failed")
    assert "chmod 600" in said.found("certificates")


async def test_a_certificate_without_the_name_that_callers_use(tmp_path: Path) -> None:
    said = await look(tmp_path, certificates(tmp_path, hosts=("gram.lab",)))
    assert said.health("certificate names") == "warning"
    assert "not for localhost" in said.found("certificate names")
    said = await look(tmp_path, certificates(tmp_path / "other"), "--host", "gram.hospital")
    assert (said.code, said.health("certificate names")) == (1, "failed")
    assert "not for gram.hospital" in said.found("certificate names")


@pytest.mark.parametrize(
    ("host", "health"), [("gram.lab", "ok"), ("GRAM.lab", "ok"), ("a.b.lab", "failed"), ("lab", "failed")]
)
async def test_a_certificate_for_all_names_of_a_domain(host: str, health: str, tmp_path: Path) -> None:
    said = await look(tmp_path, certificates(tmp_path, hosts=("localhost", "*.lab")), "--host", host)
    assert said.health("certificate names") == health


@pytest.fixture
def access(tmp_path: Path) -> tuple[AccessEditor, dict[str, str]]:
    file = tmp_path / "access.yaml"
    editor = AccessEditor(file)
    editor.add(PrincipalEntry(name="lis-north", roles=(Role.SUBMITTER,), laboratories=("north",)))
    return editor, {"GRAMSERVE_ACCESS_FILE": str(file)}


async def test_tokens_that_end_soon(access: tuple[AccessEditor, dict[str, str]], tmp_path: Path) -> None:
    editor, environment = access
    editor.create_token("lis-north", timedelta(days=90))
    assert (await look(tmp_path, environment)).health("access") == "ok"
    token = editor.create_token("lis-north", timedelta(days=9))
    said = await look(tmp_path, environment)
    assert (said.code, said.health("access")) == (0, "warning")
    assert "lis-north" in said.found("access")
    assert token.text not in str(said)


async def test_an_access_file_that_others_may_write(
    access: tuple[AccessEditor, dict[str, str]], tmp_path: Path
) -> None:
    _, environment = access
    Path(environment["GRAMSERVE_ACCESS_FILE"]).chmod(0o664)
    said = await look(tmp_path, environment)
    assert (said.code, said.health("access")) == (1, "failed")
    assert "chmod" in said.found("access")


async def test_trusted_keys_that_cannot_be_used(tmp_path: Path) -> None:
    file = tmp_path / "keys" / "trusted-keys.pem"
    environment = {"GRAMSERVE_TRUSTED_KEYS_FILE": str(file)}
    for write in (lambda: None, lambda: file.write_bytes(b"half a file")):
        file.parent.mkdir(exist_ok=True)
        write()
        said = await look(tmp_path, environment)
        assert (said.code, said.health("trusted keys")) == (1, "failed")
    file.unlink()
    assert CliRunner().invoke(app, ["keys", "init", str(file.parent)]).exit_code == 0
    said = await look(tmp_path, environment)
    assert (said.health("trusted keys"), len(said.found("trusted keys"))) == ("ok", 16)


async def test_a_running_service_is_asked_over_tls_and_only_as_who_it_says_it_is(tmp_path: Path) -> None:
    files = certificates(tmp_path)
    options = TlsOptions(cert_file=files["GRAMSERVE_TLS_CERT_FILE"], key_file=files["GRAMSERVE_TLS_KEY_FILE"])
    metrics = Metrics()
    try:
        port = metrics.serve("127.0.0.1", 0, tls=Tls(options))
        url = f"https://localhost:{port}/metrics"
        ca = {"GRAMSERVE_TLS_CA_FILE": files["GRAMSERVE_TLS_CLIENT_CA_FILE"]}
        said = await doctor(tmp_path, "--peer", url, environment=ca)
        assert said.found(f"service at {url}") == f"gramserve {version('gramserve')}, as here"
        assert said.health(f"clock of {url}") == "ok"
        said = await doctor(tmp_path, "--peer", url)  # the CAs of the system do not know it
        assert (said.code, said.health(f"service at {url}")) == (1, "failed")
        assert "certificate is not trusted" in said.found(f"service at {url}")
        assert "GRAMSERVE_TLS_CA_FILE" in said.advice(f"service at {url}")
        plain = url.replace("https", "http")
        said = await doctor(tmp_path, "--peer", plain)
        assert "use https" in said.advice(f"service at {plain}")
    finally:
        metrics.close()
