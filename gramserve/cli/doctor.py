"""gramserve doctor: is this machine fit, and what is to be done if not."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from gramserve.cli.checks import identities, machine, peers, queues, services, stores
from gramserve.cli.checks.finding import Finding, Health
from gramserve.cli.speech import SLIDES_FAILED, console, run
from gramserve.errors import GramserveError
from gramserve.tls.service import Tls


def doctor(
    data_dir: Annotated[Path, typer.Option(help="Folder that `gramserve up` would use.", metavar="DIR")] = Path(
        "gramserve-data"
    ),
    redis_url: Annotated[
        str, typer.Option(envvar="GRAMSERVE_REDIS_URL", help="Redis to check; else the bundled one.", metavar="URL")
    ] = "",
    store_url: Annotated[
        str, typer.Option(envvar="GRAMSERVE_STORE_URL", help="Store to check; else DIR/store.", metavar="URL")
    ] = "",
    host: Annotated[
        list[str] | None,
        typer.Option(help="Name by which callers reach the service; its certificate must have it. Repeatable."),
    ] = None,
    peer: Annotated[
        list[str] | None,
        typer.Option(help="Metrics of a running service, to compare its release and clock. Repeatable.", metavar="URL"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check this machine and say what to do, with the settings of its environment.

    Exit code 0: all is well, or there are warnings only; 1: something would not work.
    """
    missing = stores.missing(store_url, data_dir)
    findings = run(
        _examine(data_dir, redis_url, missing or store_url or str(data_dir / "store"), host or [], peer or [])
    )
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=1))
    else:
        _show(findings)
    if any(finding.health is Health.FAILED for finding in findings):
        raise typer.Exit(SLIDES_FAILED)


def _show(findings: list[Finding]) -> None:
    styles = {Health.OK: "green", Health.WARNING: "yellow", Health.FAILED: "red"}
    table = Table("", "check", "found", "what to do", box=None, pad_edge=False)
    for finding in findings:
        table.add_row(finding.health.value, finding.name, finding.found, finding.advice, style=styles[finding.health])
    console().print(table)


async def _examine(
    data_dir: Path, redis_url: str, store: Finding | str, hosts: list[str], peer_urls: list[str]
) -> list[Finding]:
    each, known = services.load_all()
    settings = each[services.ALL]
    findings = [machine.check_versions(), *machine.check_extras(), machine.check_cpu()]
    findings += [machine.check_memory(each["worker"].model_dump()["children"])]
    findings += [machine.check_disk(data_dir), machine.check_files(), machine.check_sandbox()]
    findings += await stores.check_store(store) if isinstance(store, str) else [store]
    findings += [known, *identities.check_certificates(settings, hosts), identities.check_access(settings)]
    findings += [identities.check_trusted_keys(settings)]
    try:
        tls = Tls.of(settings)
    except GramserveError:  # the checks of the certificates say why
        tls = Tls()
    if redis_url:
        findings += await queues.check_redis(redis_url, tls, allow_volatile=settings.allow_volatile_redis)
    else:
        findings += [await queues.check_bundled_redis()]
    for url in peer_urls:
        findings += await peers.check_peer(url, tls)
    return [*findings, *services.check_ports(each)]
