"""gramserve audit: what was done, by whom, and whether the record of it is whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from gramserve.cli.speech import SLIDES_FAILED, console, refuse, run, sentence
from gramserve.cli.store_option import STORE, Store
from gramserve.store.audit_days import AuditBroken
from gramserve.store.audit_verify import Anchor, Verified, read_audit
from gramserve.store.audit_verify import verify as verify_audit
from gramserve.store.codec import RecordCorrupt
from gramserve.store.format import require_store
from gramserve.store.objects import open_store

audit = typer.Typer(help="Verify and show the audit record.", no_args_is_help=True, add_completion=False)


@audit.command()
def verify(
    store: Store = STORE,
    anchor: Annotated[
        Path | None,
        typer.Option(help="File with the end of the record when it was last verified; written anew.", metavar="FILE"),
    ] = None,
) -> None:
    """Find any edit, gap, reordering or truncation. Exit code 1: the record is broken."""
    known = _read(anchor) if anchor is not None and anchor.exists() else None
    found = run(_verify(store, known))
    if isinstance(found, AuditBroken):
        typer.echo(f"gramserve: {sentence(found)}", err=True)
        raise typer.Exit(SLIDES_FAILED)
    if anchor is not None:
        _write(anchor, found.head)
    count = found.head.number - found.first + 1
    console().print(
        f"{count} records of {found.days} days are whole; the last is {found.head.number} {found.head.hash}"
    )
    if known is None:
        console().print("nothing shows whether later records were cut off: keep an anchor outside the store (--anchor)")


@audit.command()
def show(
    store: Store = STORE,
    actor: Annotated[str, typer.Option(help="Only what this principal did.", metavar="NAME")] = "",
    action: Annotated[str, typer.Option(help='Only this action, such as "model.promote".', metavar="ACTION")] = "",
    name: Annotated[str, typer.Option("--object", help="Only objects whose name begins so.", metavar="NAME")] = "",
    day: Annotated[str, typer.Option(help="Only this day (UTC), YYYY-MM-DD.", metavar="DAY")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the records as they are stored.")] = False,
) -> None:
    """Show records in their order, each verified against the one before."""
    run(_show(store, actor, action, name, day, as_json=as_json))


async def _verify(store: str, anchor: Anchor | None) -> Verified | AuditBroken:
    objects = open_store(store)
    await require_store(objects, store)
    try:
        return await verify_audit(objects, anchor)
    except AuditBroken as broken:
        return broken


async def _show(store: str, actor: str, action: str, name: str, day: str, *, as_json: bool) -> None:
    out, objects = console(), open_store(store)
    await require_store(objects, store)
    async for record in read_audit(objects):
        if actor not in {"", record.actor} or action not in {"", record.action}:
            continue
        if not record.object.startswith(name) or not record.time.startswith(day):
            continue
        if as_json:
            typer.echo(record.line(), nl=False)
            continue
        detail = " ".join(f"{key}={value}" for key, value in record.detail.items())
        artifact = f" artifact={record.artifact[:12]}" if record.artifact else ""
        out.print(f"{record.number:>8} {record.time} {record.actor} {record.action} {record.object}{artifact} {detail}")


def _read(path: Path) -> Anchor:
    try:
        return Anchor.from_json(path.read_bytes())
    except RecordCorrupt:
        raise refuse(f"{path} is no anchor that `gramserve audit verify` wrote") from None


def _write(path: Path, head: Anchor) -> None:
    unfinished = path.with_name(f".{path.name}.new")
    unfinished.write_text(json.dumps({"number": head.number, "hash": head.hash}) + "\n")
    unfinished.replace(path)
