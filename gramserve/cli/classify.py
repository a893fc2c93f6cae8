"""gramserve classify: slides on this machine, called at once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from gramserve.cli import connection
from gramserve.cli.calls import check_output, json_line, show_calls, write_atomically
from gramserve.cli.connection import Gateway, Laboratory
from gramserve.cli.following import progress_bar
from gramserve.cli.slides import LocalSlide, Model, SlidePaths, SpecimenType, find_slides
from gramserve.cli.speech import SLIDES_FAILED, console, plain_errors, run
from gramserve.cli.submit import model_name
from gramserve.client import GramserveClient
from gramserve.v1.slide_pb2 import Slide

TOGETHER = 8


def classify(
    paths: SlidePaths,
    model: Model,
    timeout: Annotated[float, typer.Option(min=0.1, max=3600, help="Wait for a slide so long.", metavar="S")] = 60.0,
    laboratory: Laboratory = connection.LABORATORY,
    specimen_type: SpecimenType = "",
    output: Annotated[
        Path | None, typer.Option(help="Write the slides there, one JSON object a line.", metavar="FILE")
    ] = None,
    gateway: Gateway = connection.GATEWAY,
) -> None:
    """Call a few slides at once, before all routine work. Exit code 1: some slides have no call; 2: not all answered.

    Many slides belong into `gramserve submit`, with or without --stat.
    """
    with plain_errors():
        slides = find_slides(paths)
        check_output(output)
    run(
        _classify(gateway, laboratory, slides, model_name(model), timeout, specimen_type, output),
        unreachable=connection.no_gateway(gateway),
    )


async def _classify(
    address: str,
    laboratory: str,
    slides: list[LocalSlide],
    model: str,
    timeout_s: float,
    specimen_type: str,
    output: Path | None,
) -> None:
    async with connection.gateway(address, laboratory) as client:
        called = await _call(client, slides, model, timeout_s, specimen_type)
    out = console()
    show_calls(out, called, total=len(called))
    if output is not None:
        write_atomically(output, map(json_line, called))
        out.print(f"written: {output}")
    if any(slide.state != Slide.STATE_SUCCEEDED for slide in called):
        raise typer.Exit(SLIDES_FAILED)


async def _call(
    client: GramserveClient, slides: list[LocalSlide], model: str, timeout_s: float, specimen_type: str
) -> list[Slide]:
    turns = asyncio.Semaphore(TOGETHER)
    with progress_bar() as progress:
        task = progress.add_task("classify", total=len(slides), failed="")

        async def one(slide: LocalSlide) -> Slide:
            async with turns:
                source = await client.inline_slide(slide.slide_id, slide.fields, specimen_type=specimen_type)
                called = await client.classify_slide(source, model=model, timeout_s=timeout_s)
                progress.advance(task)
                return called

        # The first that fails ends the command: the calls that wait are cancelled, and with them their slides.
        return await asyncio.gather(*(one(slide) for slide in slides))
