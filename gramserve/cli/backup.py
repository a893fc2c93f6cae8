"""gramserve backup: a copy of the store, made while services use it."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from gramserve.cli.speech import console, run
from gramserve.cli.store_option import STORE, Store, local_actor
from gramserve.store.audit import AuditLog
from gramserve.store.audit_record import Action
from gramserve.store.backup import Backup, Copied
from gramserve.store.format import read_format, require_store
from gramserve.store.objects import ObjectStore, open_store


def backup(
    target: Annotated[str, typer.Argument(help="Folder or s3://bucket/prefix of the copy.", metavar="TARGET")],
    store: Store = STORE,
) -> None:
    """Copy the store to TARGET, which is empty or an earlier copy; services may go on meanwhile.

    The copy is a store itself: services start on it, and the same command copies it back. Redis needs no backup.
    """
    begun = time.monotonic()
    copied = run(_backup(store, target))
    console().print(
        f"{copied.objects} objects of {copied.bytes / 1e6:.1f} MB copied, {copied.kept} were there, "
        f"{copied.open_batches} batches in it are open; {time.monotonic() - begun:.1f} s"
    )


async def _backup(store: str, target: str) -> Copied:
    source, copy = open_store(store), open_store(target)
    await require_store(source, store)  # a copy of nothing would look like a backup
    restoring = (await read_format(source)).copy
    if not restoring:
        await _note(source)
    copied = await Backup(source, copy).run()
    if restoring:  # a copy stays as it is, or it could not be brought up to date any more
        await _note(copy)
    return copied


async def _note(store: ObjectStore) -> None:
    await AuditLog(store).record(Action.STORE_COPY, "store", actor=local_actor())
