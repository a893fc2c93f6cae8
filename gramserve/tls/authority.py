"""A laboratory's own certificate authority, for a trial or a network of its own: made, opened, issuing."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gramserve.errors import AlreadyExists, InvalidInput, NotFound, Reason

CA_DAYS = 3650
LEAF_DAYS = 397
SERVICES = ("gateway", "worker", "optimizer", "report", "redis")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_EARLIER = timedelta(hours=1)  # clocks of a laboratory differ


@dataclass(frozen=True, slots=True)
class Issued:
    """What a certificate says: whose it is, for which hosts, as what, until when."""

    name: str
    hosts: tuple[str, ...]
    uses: tuple[str, ...]
    ends: datetime


class Authority:
    """The CA in `folder`: ca.pem and ca.key. Keys are EC P-256, unencrypted PKCS #8, mode 0600. `now` has a time zone.

    Raises NotFound when there is none, InvalidInput when its files are something else.
    """

    def __init__(self, folder: Path, now: datetime | None = None) -> None:
        self._folder = folder
        self._now = now or datetime.now(UTC)
        try:
            self._certificate = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
            key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
        except OSError:
            raise NotFound(Reason.INVALID_SETTINGS, "there is no ca.pem with its ca.key here") from None
        except (ValueError, TypeError):
            raise InvalidInput(Reason.INVALID_SETTINGS, "ca.pem or ca.key cannot be read") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise InvalidInput(Reason.INVALID_SETTINGS, "ca.key is no elliptic curve key")
        self._key = key

    @classmethod
    def create(cls, folder: Path, now: datetime | None = None) -> Authority:
        """A new CA in `folder`, which is made with mode 0700. Raises AlreadyExists where there is one."""
        now = now or datetime.now(UTC)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if (folder / "ca.pem").exists():
            raise AlreadyExists(Reason.INVALID_SETTINGS, "there is a CA here already; it is not replaced")
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gramserve laboratory CA")])
        certificate = (
            _begun(name, name, key.public_key(), now, CA_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        _write(folder / "ca.key", _pem(key), 0o600)
        _write(folder / "ca.pem", certificate.public_bytes(serialization.Encoding.PEM), 0o644)
        return cls(folder, now)

    def issue(self, name: str, *, hosts: Sequence[str] = (), days: int = LEAF_DAYS) -> Path:
        """A certificate of `name`, beside its key in name.key: of a server and client for `hosts`, else of a client.

        A key that is there is kept, so that renewing changes one file at once. Raises InvalidInput for a name that
        cannot be that of a file.
        """
        if not _NAME.fullmatch(name) or name == "ca":
            raise InvalidInput(Reason.INVALID_SETTINGS, "a name has letters, digits, dots, - and _, 64 at most")
        key_file, file = self._folder / f"{name}.key", self._folder / f"{name}.pem"
        if not key_file.exists():
            _write(key_file, _pem(ec.generate_private_key(ec.SECP256R1())), 0o600)
        key = serialization.load_pem_private_key(key_file.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        uses = [ExtendedKeyUsageOID.CLIENT_AUTH] if not hosts else list(_SERVER_AND_CLIENT)
        building = (
            _begun(subject, self._certificate.subject, key.public_key(), self._now, days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if hosts:
            names = x509.SubjectAlternativeName([_host(host) for host in hosts])
            building = building.add_extension(names, critical=False)
        certificate = building.sign(self._key, hashes.SHA256())
        _write(file, certificate.public_bytes(serialization.Encoding.PEM), 0o644)
        return file


def describe(pem: bytes) -> Issued:
    """What the first certificate in `pem` says. Raises InvalidInput when there is none."""
    try:
        certificate = x509.load_pem_x509_certificates(pem)[0]
        common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        extensions = certificate.extensions
    except ValueError:
        raise InvalidInput(Reason.INVALID_SETTINGS, "there is no certificate in it") from None
    hosts: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()
    for extension in extensions:
        value = extension.value
        if isinstance(value, x509.SubjectAlternativeName):
            hosts = tuple(str(name.value) for name in value)
        elif isinstance(value, x509.ExtendedKeyUsage):
            uses += tuple(_USES[use] for use in value if use in _USES)
        elif isinstance(value, x509.BasicConstraints) and value.ca:
            uses += ("CA",)
    return Issued(str(common[0].value) if common else "", hosts, uses, certificate.not_valid_after_utc)


_SERVER_AND_CLIENT = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
_USES = {ExtendedKeyUsageOID.SERVER_AUTH: "server", ExtendedKeyUsageOID.CLIENT_AUTH: "client"}


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError:
        raise InvalidInput(Reason.INVALID_SETTINGS, "a host is a DNS name in ASCII or an IP address") from None


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(file: Path, data: bytes, mode: int) -> None:
    """The whole file or none, never readable by more than `mode` says; what was there before is replaced."""
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as output:
        output.write(data)
    beside.replace(file)
