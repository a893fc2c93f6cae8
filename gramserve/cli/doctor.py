"""gramserve doctor: is this machine fit, and what is to be done if not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from gramserve.cli import checks
from gramserve.cli.checks import Finding, Health
from gramserve.cli.speech import SLIDES_FAILED, console, run


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
) -> None:
    """Check this machine and say what to do. Exit code 1: something would not work."""
    findings = run(_examine(data_dir, redis_url, store_url or (str(data_dir / "store") if data_dir.exists() else "")))
    styles = {Health.OK: "green", Health.WARNING: "yellow", Health.FAILED: "red"}
    table = Table("", "check", "found", "what to do", box=None, pad_edge=False)
    for finding in findings:
        table.add_row(finding.health.value, finding.name, finding.found, finding.advice, style=styles[finding.health])
    console().print(table)
    if any(finding.health is Health.FAILED for finding in findings):
        raise typer.Exit(SLIDES_FAILED)


async def _examine(data_dir: Path, redis_url: str, store_url: str) -> list[Finding]:
    findings = [checks.check_python(), *checks.check_extras(), checks.check_cpu(), checks.check_disk(data_dir)]
    if store_url:
        findings.append(await checks.check_store(store_url))
    else:
        findings.append(checks.check_folder(data_dir))
    findings.append(await (checks.check_redis(redis_url) if redis_url else checks.check_bundled_redis()))
    findings += [checks.check_port("gateway", 50051), checks.check_port("optimizer", 50053)]
    return findings
