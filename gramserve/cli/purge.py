"""gramserve purge: delete what is older than it may be, or count it."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from gramserve.cli.speech import console, run, side_console
from gramserve.cli.store_option import STORE, Store, local_actor
from gramserve.store.audit import AuditLog
from gramserve.store.format import require_store
from gramserve.store.objects import open_store
from gramserve.store.purge import Purger
from gramserve.store.retention import RetentionDays

_KEEP = RetentionDays()


def _days(kind: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(
        f"--{kind}",
        envvar=f"GRAMSERVE_GATEWAY_RETENTION_{kind.upper()}_DAYS",
        help=f"Days that {kind} are kept; 0 is for ever.",
        metavar="DAYS",
        min=0,
    )
    return option


def purge(
    store: Store = STORE,
    batches: Annotated[float, _days("batches")] = _KEEP.batches,
    images: Annotated[float, _days("images")] = _KEEP.images,
    uploads: Annotated[float, _days("uploads")] = _KEEP.uploads,
    reuse: Annotated[float, _days("reuse")] = _KEEP.reuse,
    optimizations: Annotated[float, _days("optimizations")] = _KEEP.optimizations,
    audit: Annotated[float, _days("audit")] = _KEEP.audit,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many of each kind would go.")] = False,
) -> None:
    """Delete what is older than its retention, as the gateways do by themselves; audited under your name."""
    keep = RetentionDays(batches, images, uploads, reuse, optimizations, audit)
    found, damaged = run(_purge(store, keep, dry_run=dry_run))
    said = ", ".join(f"{kind} {count}" for kind, count in found.items())
    console().print(f"{'would be purged' if dry_run else 'purged'}: {said}")
    if damaged:
        side_console().print(f"damaged records passed over: {damaged}; see docs/operations.md")


async def _purge(store: str, keep: RetentionDays, *, dry_run: bool) -> tuple[dict[str, int], int]:
    objects = open_store(store)
    await require_store(objects, store)
    log = AuditLog(objects)
    purger = Purger(objects, keep, log, clock=time.time, actor=local_actor(), dry_run=dry_run)
    return await purger.purge(), purger.damaged
