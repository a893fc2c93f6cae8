"""What commands share that work on the store itself, not through a service: which store, and who does it."""

from __future__ import annotations

import os
import pwd
from typing import Annotated

import typer

Store = Annotated[
    str,
    typer.Option(
        "--store", envvar="GRAMSERVE_STORE_URL", help="Folder or s3://bucket/prefix of the store.", metavar="URL"
    ),
]
STORE = "./gramserve-data/store"


def local_actor() -> str:
    """Who the audit record says did it: the user as the system knows it, whatever its environment says."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container has no names for most users
        name = str(os.getuid())
    return f"local:{name}"
