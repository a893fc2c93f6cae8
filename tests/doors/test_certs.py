"""gramserve certs: the CA of a laboratory, its certificates, and what is said of them."""

from __future__ import annotations

import ssl
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from typer.testing import CliRunner

from gramserve.cli import app
from gramserve.errors import AlreadyExists, InvalidInput, NotFound
from gramserve.tls.authority import Authority, describe
from tests.doors.laboratory import Laboratory
from tests.waiting import HANGS_S

runner = CliRunner()
NAMES = ["ca", "client", "gateway", "optimizer", "redis", "report", "worker"]


def _run(*words: str | Path, code: int = 0) -> str:
    result = runner.invoke(app, ["certs", *map(str, words)])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.output


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What `gramserve certs init` made."""
    _run("init", tmp_path / "certs", "--host", "gram.lab.example", "--host", "192.0.2.7")
    return tmp_path / "certs"


def _certificate(folder: Path, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / f"{name}.pem").read_bytes())


def test_init_makes_a_CA_and_certificates_of_all_services_and_a_client(folder: Path) -> None:
    assert sorted(file.stem for file in folder.glob("*.pem")) == NAMES
    assert sorted(file.stem for file in folder.glob("*.key")) == NAMES
    assert not [file for file in folder.iterdir() if file.name.startswith(".")]


def test_keys_are_for_their_owner_only(folder: Path) -> None:
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.glob("*.key")} == {0o600}


def test_all_keys_are_different_and_on_P_256(folder: Path) -> None:
    keys = [_certificate(folder, name).public_key() for name in NAMES]
    assert all(isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == "secp256r1" for key in keys)
    assert len({key.public_numbers() for key in keys if isinstance(key, ec.EllipticCurvePublicKey)}) == len(NAMES)


def test_a_service_is_known_by_its_name_on_this_machine_and_as_every_host(folder: Path) -> None:
    for name in ("gateway", "worker", "optimizer", "redis"):
        issued = describe((folder / f"{name}.pem").read_bytes())
        assert issued.name == name
        assert issued.hosts == (name, "localhost", "127.0.0.1", "::1", "gram.lab.example", "192.0.2.7")
        assert issued.uses == ("server", "client")
    assert describe((folder / "client.pem").read_bytes()).uses == ("client",)


@pytest.mark.parametrize(
    ("name", "purpose"), [("gateway", "sslserver"), ("gateway", "sslclient"), ("client", "sslclient")]
)
def test_openssl_finds_them_strictly_right(folder: Path, name: str, purpose: str) -> None:
    command = ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", str(folder / "ca.pem")]
    try:
        subprocess.run([*command, str(folder / f"{name}.pem")], check=True, capture_output=True, timeout=HANGS_S)
    except FileNotFoundError:
        pytest.skip("there is no openssl here")


def test_a_client_certificate_cannot_pose_as_a_service_nor_sign_others(folder: Path) -> None:
    certificate = _certificate(folder, "client")
    uses = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(uses) == [x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    ca = _certificate(folder, "ca").extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (ca.ca, ca.path_length) == (True, 0)


def test_a_CA_is_never_replaced(folder: Path) -> None:
    before = (folder / "ca.pem").read_bytes(), (folder / "ca.key").read_bytes()
    assert "not replaced" in _run("init", folder, code=2)
    assert before == ((folder / "ca.pem").read_bytes(), (folder / "ca.key").read_bytes())
    with pytest.raises(AlreadyExists):
        Authority.create(folder)


def test_a_client_gets_a_certificate_of_its_own_once(folder: Path) -> None:
    said = _run("client", "lis-north", "--dir", folder)
    assert said.strip() == str(folder / "lis-north.pem")
    assert describe((folder / "lis-north.pem").read_bytes()).name == "lis-north"
    serial = _certificate(folder, "lis-north").serial_number
    assert "already" in _run("client", "lis-north", "--dir", folder, code=2)
    assert _certificate(folder, "lis-north").serial_number == serial


@pytest.mark.parametrize("name", ["../out", "a/b", "", ".hidden", "a b", "a\nb", "ca", "ü", "x" * 65])
def test_a_name_that_could_be_no_file_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(InvalidInput):
        Authority(folder).issue(name)
    assert sorted(file.stem for file in folder.glob("*.pem")) == NAMES


def test_renewing_keeps_keys_and_hosts_and_changes_no_CA(folder: Path) -> None:
    before = {name: _certificate(folder, name) for name in NAMES}
    keys = {name: (folder / f"{name}.key").read_bytes() for name in NAMES}
    _run("renew", folder, "--days", "500")
    for name in NAMES:
        after = _certificate(folder, name)
        assert (after == before[name]) == (name == "ca")
        assert describe((folder / f"{name}.pem").read_bytes()).uses
        assert (folder / f"{name}.key").read_bytes() == keys[name]
    assert describe((folder / "gateway.pem").read_bytes()).hosts[-1] == "192.0.2.7"
    assert _certificate(folder, "gateway").not_valid_after_utc > datetime.now(UTC) + timedelta(days=499)
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.load_cert_chain(folder / "gateway.pem", folder / "gateway.key")


def test_show_says_what_they_are_and_warns_in_time(tmp_path: Path) -> None:
    laboratory = Laboratory(tmp_path / "lab")
    said = _run("show", laboratory.folder)
    assert "gramserve laboratory CA" in said
    assert "127.0.0.1" in said
    laboratory.authority.issue("client", days=10)
    _run("show", laboratory.folder, code=1)
    _run("show", laboratory.folder, "--warn-days", "5")
    _run("show", laboratory.file("service.pem"))


def test_what_is_no_certificate_or_no_CA_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.pem").write_text("nothing")
    for words in (
        ["show", tmp_path],
        ["show", tmp_path / "none.pem"],
        ["renew", tmp_path],
        ["client", "a", "--dir", tmp_path],
    ):
        assert _run(*words, code=2).count("\n") == 1
    with pytest.raises(NotFound):
        Authority(tmp_path)
