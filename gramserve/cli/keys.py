"""gramserve keys: the key that signs artifacts, and the keys that are trusted."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gramserve.cli.speech import console, plain_errors, refuse
from gramserve.store.signing import TrustedKeys, key_id

SIGNING_KEY, TRUSTED_KEYS = "signing-key.pem", "trusted-keys.pem"

keys = typer.Typer(help="Make and show keys for signing artifacts.", no_args_is_help=True, add_completion=False)


@keys.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Where the keys go; made when missing.", metavar="DIR")],
) -> None:
    """Make a signing key, which stays with the optimizer, and add its public half to the trusted keys."""
    with plain_errors():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = Ed25519PrivateKey.generate()
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        try:
            descriptor = os.open(folder / SIGNING_KEY, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise refuse(f"{folder / SIGNING_KEY} is there already; move it away to make another") from None
        with os.fdopen(descriptor, "wb") as file:
            file.write(private)
        # Added to, not replaced: what an older key signed stays trusted until somebody takes that key out.
        with (folder / TRUSTED_KEYS).open("ab") as file:
            file.write(public)
        console().print(f"key {key_id(key.public_key())}")
        console().print(f"optimizer:            GRAMSERVE_OPTIMIZER_SIGNING_KEY={folder / SIGNING_KEY}")
        console().print(f"gateway and workers:  GRAMSERVE_TRUSTED_KEYS_FILE={folder / TRUSTED_KEYS}")


@keys.command()
def show(
    file: Annotated[Path, typer.Argument(help="File of trusted keys.", metavar="FILE")],
) -> None:
    """Show which keys are trusted."""
    with plain_errors():
        for one in TrustedKeys.parse(file.read_bytes()).key_ids:
            console().print(one)
