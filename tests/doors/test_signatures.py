"""Artifacts are signed, and what nobody trusted has signed is neither promoted nor loaded."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from gramserve.cli import app
from gramserve.cli.store_option import local_actor
from gramserve.errors import ArtifactInvalid, GramserveError, InvalidInput, Reason, Unsafe
from gramserve.store.audit_verify import read_audit
from gramserve.store.objects import LocalObjects
from gramserve.store.records import SlideState
from gramserve.store.registry import Registry
from gramserve.store.signing import FileSigner, TrustedKeys, load_signer, load_trusted, sign_manifest
from gramserve.v1.model_service_pb2 import PromoteModelVersionRequest, RollbackModelRequest
from inference_svc.settings import WorkerSettings
from tests.gateway.stack import Stack, refused
from tests.inference.bench import Bench
from tests.services import redis_server
from tests.store.artifacts import FILES, draft
from tests.waiting import HANGS_S, until

MANIFEST = b'{"model": "gram"}\n'


class Keys:
    """A signing key in a file and the file of those that are trusted, made by the command."""

    def __init__(self, folder: Path) -> None:
        done = CliRunner().invoke(app, ["keys", "init", str(folder)])
        assert done.exit_code == 0, done.output
        self.signing, self.trusted = folder / "signing-key.pem", folder / "trusted-keys.pem"
        self.said = done.output

    @property
    def signer(self) -> FileSigner:
        return FileSigner.load(self.signing)


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "keys")


def trusted(*made: Keys) -> TrustedKeys:
    return TrustedKeys.parse(b"".join(one.trusted.read_bytes() for one in made))


# Keys and signatures.


def test_a_signature_holds_for_its_manifest_and_for_no_other(keys: Keys) -> None:
    signatures = sign_manifest(keys.signer, MANIFEST)
    assert trusted(keys).verify(MANIFEST, signatures) == keys.signer.key_id
    for changed in (MANIFEST + b" ", MANIFEST.replace(b"gram", b"gran"), b""):
        with pytest.raises(ArtifactInvalid) as untrusted:
            trusted(keys).verify(changed, signatures)
        assert untrusted.value.reason is Reason.ARTIFACT_UNTRUSTED


def _without(signatures: bytes) -> None:
    return None


def _empty(signatures: bytes) -> bytes:
    return b'{"signatures":[]}'


def _no_json(signatures: bytes) -> bytes:
    return b"\x00" * 64


def _changed(signatures: bytes) -> bytes:
    found = json.loads(signatures)
    text = found["signatures"][0]["signature"]
    found["signatures"][0]["signature"] = ("B" if text[0] == "A" else "A") + text[1:]
    return json.dumps(found).encode()


def _no_base64(signatures: bytes) -> bytes:
    found = json.loads(signatures)
    found["signatures"][0]["signature"] = "ä!"
    return json.dumps(found).encode()


def _other_payload(signatures: bytes) -> bytes:
    return json.dumps({**json.loads(signatures), "payload_type": "application/json"}).encode()


@pytest.mark.parametrize("spoil", [_without, _empty, _no_json, _changed, _no_base64, _other_payload])
def test_without_a_good_signature_an_artifact_is_ARTIFACT_UNTRUSTED(keys: Keys, spoil: Any) -> None:
    with pytest.raises(ArtifactInvalid) as untrusted:
        trusted(keys).verify(MANIFEST, spoil(sign_manifest(keys.signer, MANIFEST)))
    assert untrusted.value.reason is Reason.ARTIFACT_UNTRUSTED


def test_what_a_stranger_signed_under_the_name_of_our_key_is_not_trusted(keys: Keys, tmp_path: Path) -> None:
    stranger = Keys(tmp_path / "stranger")
    forged = json.loads(sign_manifest(stranger.signer, MANIFEST))
    forged["signatures"][0]["key_id"] = keys.signer.key_id
    for signatures in (sign_manifest(stranger.signer, MANIFEST), json.dumps(forged).encode()):
        with pytest.raises(ArtifactInvalid):
            trusted(keys).verify(MANIFEST, signatures)


def test_a_plain_signature_of_the_manifest_is_none_of_an_artifact(keys: Keys) -> None:
    """What the key signed for another purpose is not taken: the type of what is signed is signed, too."""
    import base64

    plain = base64.b64encode(keys.signer.sign(MANIFEST)).decode()
    forged = json.loads(sign_manifest(keys.signer, MANIFEST))
    forged["signatures"][0]["signature"] = plain
    with pytest.raises(ArtifactInvalid):
        trusted(keys).verify(MANIFEST, json.dumps(forged).encode())


def test_keys_rotate_old_and_new_signatures_stand_beside_each_other(keys: Keys, tmp_path: Path) -> None:
    new = Keys(tmp_path / "new")
    both = sign_manifest(new.signer, MANIFEST, sign_manifest(keys.signer, MANIFEST))
    assert trusted(keys).verify(MANIFEST, both) == keys.signer.key_id
    assert trusted(new).verify(MANIFEST, both) == new.signer.key_id
    assert len(json.loads(sign_manifest(new.signer, MANIFEST, both))["signatures"]) == 2  # not a third one


def test_keys_init_keeps_what_is_trusted_and_replaces_no_key(keys: Keys) -> None:
    again = CliRunner().invoke(app, ["keys", "init", str(keys.signing.parent)])
    assert again.exit_code == 2
    keys.signing.rename(keys.signing.with_suffix(".old"))
    assert CliRunner().invoke(app, ["keys", "init", str(keys.signing.parent)]).exit_code == 0
    shown = CliRunner().invoke(app, ["keys", "show", str(keys.trusted)]).output.split()
    assert shown == list(trusted(keys).key_ids)
    assert len(shown) == 2
    assert shown[1] == keys.signer.key_id
    assert keys.signing.stat().st_mode & 0o077 == 0


def test_a_signing_key_that_others_can_read_is_refused(keys: Keys) -> None:
    keys.signing.chmod(0o640)
    with pytest.raises(Unsafe):
        load_signer(str(keys.signing))


@pytest.mark.parametrize("content", [b"", b"no key", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
def test_a_file_that_holds_no_keys_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "keys.pem"
    path.write_bytes(content)
    path.chmod(0o600)
    for load in (load_trusted, load_signer):
        with pytest.raises(InvalidInput) as wrong:
            load(str(path))
        assert wrong.value.reason is Reason.INVALID_SETTINGS
        assert str(tmp_path) not in wrong.value.message
    with pytest.raises(InvalidInput):
        load_signer(str(tmp_path / "missing"))


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    key = generate_private_key(SECP256R1())
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    private.chmod(0o600)
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    with pytest.raises(InvalidInput):
        load_signer(str(private))
    with pytest.raises(InvalidInput):
        load_trusted(str(public))


# The registry.


async def test_a_version_is_signed_before_it_can_be_seen(keys: Keys, tmp_path: Path) -> None:
    written: list[str] = []

    class Watched(LocalObjects):
        async def put(self, path: str, data: bytes) -> None:
            written.append(path.rpartition("/")[2])
            await super().put(path, data)

    objects = Watched(tmp_path / "store")
    registry = Registry(objects, signer=keys.signer, trusted=lambda: trusted(keys))
    await registry.publish("gram", FILES, draft())
    assert written[-2:] == ["manifest.sig", "manifest.json"]
    await registry.check_signature("gram", 1)
    await registry.promote("gram", 1)


async def test_an_alias_moves_to_no_version_without_a_trusted_signature_neither_forth_nor_back(
    keys: Keys, tmp_path: Path
) -> None:
    objects = LocalObjects(tmp_path / "store")
    free = Registry(objects)
    await free.publish("gram", FILES, draft())
    await free.promote("gram", 1)
    careful = Registry(objects, signer=keys.signer, trusted=lambda: trusted(keys))
    await careful.publish("gram", FILES, draft())
    await careful.promote("gram", 2)
    for attempt in (careful.promote("gram", 1), careful.rollback("gram"), careful.promote("gram", 1, "shadow")):
        with pytest.raises(ArtifactInvalid) as untrusted:
            await attempt
        assert untrusted.value.reason is Reason.ARTIFACT_UNTRUSTED
    alias = await careful.alias("gram", "production")
    assert alias is not None
    assert alias.version == 2
    await careful.sign("gram", 1, keys.signer)
    assert (await careful.rollback("gram")).version == 1


async def test_models_sign_signs_in_the_store_and_is_audited_under_the_name_of_the_user(
    keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "somebody-else")
    objects = LocalObjects(tmp_path / "store")
    _, digest = await Registry(objects).publish("gram", FILES, draft())
    words = ["models", "sign", "gram", "1", "--key", str(keys.signing), "--store", str(tmp_path / "store")]
    done = await asyncio.to_thread(CliRunner().invoke, app, words)
    assert done.exit_code == 0, done.output
    assert keys.signer.key_id in done.output
    await Registry(objects, trusted=lambda: trusted(keys)).check_signature("gram", 1)
    (record,) = [record async for record in read_audit(objects)]
    assert (record.action, record.object, record.artifact) == ("model.sign", "models/gram/versions/1", digest)
    assert (record.actor, record.detail) == (local_actor(), {"key": keys.signer.key_id})
    assert "somebody-else" not in record.actor


# The gateway and the worker.


async def test_the_gateway_promotes_nothing_that_is_unsigned(keys: Keys, tmp_path: Path) -> None:
    async with redis_server(tmp_path / "redis") as redis:
        stack = Stack(tmp_path, redis, trusted_keys_file=str(keys.trusted))
        await stack.publish()
        await stack.publish(promote=False)
        await stack.start()
        try:
            request = PromoteModelVersionRequest(name="models/gram/versions/2")
            code, error = await refused(stack.models.PromoteModelVersion(request))
            assert (code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, Reason.ARTIFACT_UNTRUSTED)
            await stack.registry.sign("gram", 2, keys.signer)
            await stack.models.PromoteModelVersion(request)
            code, error = await refused(stack.models.RollbackModel(RollbackModelRequest(name="models/gram")))
            assert (code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, Reason.ARTIFACT_UNTRUSTED)
        finally:
            await stack.stop()


async def test_I13_a_worker_serves_what_is_signed_and_goes_on_when_something_unsigned_is_promoted(
    bench: Bench, keys: Keys
) -> None:
    signed = await bench.publish()
    await bench.registry.sign("gram", signed.version, keys.signer)
    async with bench.worker(trusted_keys_file=str(keys.trusted)) as worker:
        value = worker.metrics.registry.get_sample_value
        await until(lambda: value("gramserve_models_loaded") == 1)
        unsigned = await bench.publish(sharpness=90.0)  # by somebody who can write to the store
        await until(lambda: value("gramserve_model_load_failures_total", {"reason": "ARTIFACT_UNTRUSTED"}))
        await until(lambda: value("gramserve_models_failed") == 1)
        await bench.submit([await bench.field()], signed, batch="b1")
        await bench.submit([await bench.field()], unsigned, batch="b2")
        good, bad = await bench.ended("b1"), await bench.ended("b2")
        assert worker.serving
        assert value("gramserve_models_loaded") == 1
    assert good[0].state is SlideState.SUCCEEDED
    assert bad[0].error is not None
    assert bad[0].error.reason == "MODEL_UNAVAILABLE"
    assert "ARTIFACT_UNTRUSTED" in bad[0].error.message


def test_a_service_with_a_file_of_keys_that_is_none_does_not_start(tmp_path: Path) -> None:
    from inference_svc.app import App

    settings = WorkerSettings(
        store_url=str(tmp_path), metrics_port=-1, listen="127.0.0.1:0", trusted_keys_file=str(tmp_path / "none")
    )
    with pytest.raises(GramserveError):
        App(settings)


# A key that never leaves its token.

_MODULES = ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so")


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of an Ed25519 key in a token of SoftHSM."""
    module = next((path for path in _MODULES if Path(path).exists()), "")
    if not module or shutil.which("softhsm2-util") is None:
        pytest.skip("softhsm2 is not installed")
    pkcs11 = pytest.importorskip("pkcs11")
    (tmp_path / "tokens").mkdir()
    configuration = tmp_path / "softhsm2.conf"
    configuration.write_text(f"directories.tokendir = {tmp_path / 'tokens'}\nobjectstore.backend = file\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(configuration))
    words = ["softhsm2-util", "--init-token", "--free", "--label", "lab", "--pin", "2468", "--so-pin", "8642"]
    subprocess.run(words, check=True, capture_output=True, timeout=HANGS_S)
    library = pkcs11.lib(module)
    library.reinitialize()
    with library.get_token(token_label="lab").open(rw=True, user_pin="2468") as session:
        parameters = session.create_domain_parameters(
            pkcs11.KeyType.EC_EDWARDS,
            {pkcs11.Attribute.EC_PARAMS: b"\x13\x0cedwards25519"},
            local=True,
        )
        parameters.generate_keypair(mechanism=pkcs11.Mechanism.EC_EDWARDS_KEY_PAIR_GEN, store=True, label="artifacts")
    (tmp_path / "pin").write_text("2468\n")
    return f"pkcs11:token=lab;object=artifacts?module-path={module}&pin-source=file:{tmp_path / 'pin'}"


def test_a_key_in_a_PKCS11_token_signs_what_its_public_half_verifies(token: str) -> None:
    signer = load_signer(token)
    public = signer.public_key  # type: ignore[attr-defined]
    assert TrustedKeys([public]).verify(MANIFEST, sign_manifest(signer, MANIFEST)) == signer.key_id
    with pytest.raises(ArtifactInvalid):
        TrustedKeys([Ed25519PrivateKey.generate().public_key()]).verify(MANIFEST, sign_manifest(signer, MANIFEST))


def test_a_token_that_cannot_be_had_is_refused_without_telling_its_pin(token: str, tmp_path: Path) -> None:
    (tmp_path / "pin").write_text("1357")
    changes = [("", ""), ("artifacts", "others"), ("lab", "hal"), ("module-path", "x")]
    for uri in [token.replace(old, new) for old, new in changes]:
        with pytest.raises(InvalidInput) as refusal:
            load_signer(uri)
        assert refusal.value.reason is Reason.INVALID_SETTINGS
        assert "1357" not in refusal.value.message
