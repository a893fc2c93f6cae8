"""gramserve submit: slides on this machine become a batch."""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from gramserve.cli import connection
from gramserve.cli.calls import check_output
from gramserve.cli.connection import Gateway, Laboratory
from gramserve.cli.due import parse_due
from gramserve.cli.following import follow, progress_bar, show_results
from gramserve.cli.slides import LocalSlide, Model, SlidePaths, SpecimenType, find_slides
from gramserve.cli.speech import SLIDES_FAILED, console, plain_errors, run
from gramserve.client import GramserveClient
from gramserve.v1.slide_batch_pb2 import SlideBatch, SlideSource


def submit(
    paths: SlidePaths,
    model: Model,
    laboratory: Laboratory = connection.LABORATORY,
    stat: Annotated[bool, typer.Option("--stat", help="Overtake routine work.")] = False,
    due: Annotated[
        str | None, typer.Option(help="Deliver until HH:MM or an ISO date and time; the rest expires.", metavar="TIME")
    ] = None,
    specimen_type: SpecimenType = "",
    wait: Annotated[bool, typer.Option("--wait", help="Follow the batch to its end and show the calls.")] = False,
    output: Annotated[
        Path | None,
        typer.Option(help="Write the slides there, one JSON object a line; waits for them.", metavar="FILE"),
    ] = None,
    gateway: Gateway = connection.GATEWAY,
) -> None:
    """Upload slides and create a batch of them. Exit code 1: some slides have no call; 2: nothing was submitted."""
    with plain_errors():
        slides = find_slides(paths)
        check_output(output)
        deliver_by = parse_due(due, datetime.now().astimezone()) if due else None
    run(
        _submit(
            gateway,
            laboratory,
            slides,
            model=model_name(model),
            stat=stat,
            deliver_by=deliver_by,
            specimen_type=specimen_type,
            wait=wait or output is not None,
            output=output,
        ),
        unreachable=connection.no_gateway(gateway),
    )


def model_name(model: str) -> str:
    """The resource name of a model given by it or by its short name."""
    return model if model.startswith("models/") else f"models/{model}"


async def _submit(
    address: str,
    laboratory: str,
    slides: list[LocalSlide],
    *,
    model: str,
    stat: bool,
    deliver_by: datetime | None,
    specimen_type: str,
    wait: bool,
    output: Path | None,
) -> None:
    out = console()
    async with connection.gateway(address, laboratory) as client:
        sources = await _upload(client, slides, specimen_type)
        batch = await client.create_batch(sources, model=model, stat=stat, deliver_by=deliver_by)
        count = batch.completion_stats.total_count
        out.print(f"{batch.name}: {count} slide{'s' if count != 1 else ''} accepted for {batch.model_version}")
        if wait:
            batch = await follow(client, batch.name)
            await show_results(client, batch, out, output)
            if batch.state != SlideBatch.STATE_SUCCEEDED:
                raise typer.Exit(SLIDES_FAILED)


async def _upload(client: GramserveClient, slides: list[LocalSlide], specimen_type: str) -> list[SlideSource]:
    with progress_bar() as progress:
        task = progress.add_task("upload", total=sum(len(slide.fields) for slide in slides), failed="")

        async def one(slide: LocalSlide) -> SlideSource:
            source = await client.upload_slide(slide.slide_id, slide.fields, specimen_type=specimen_type)
            progress.advance(task, len(slide.fields))
            return source

        return await asyncio.gather(*(one(slide) for slide in slides))
