"""Submits slides from Python and prints their calls:  python examples/python_client.py MODEL IMAGE..."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from gramserve.client import GramserveClient
from gramserve.errors import GramserveError
from gramserve.v1.slide_pb2 import Call, Slide


async def main(model: str, images: list[Path]) -> None:
    """One slide for each image; retries, lost connections and repeats are the client's business."""
    async with GramserveClient("127.0.0.1:50051", laboratory="default") as client:
        slides = [await client.upload_slide(image.stem, [image]) for image in images]
        batch = await client.create_batch(slides, model=f"models/{model}", annotations={"lis-run": "42"})
        print(f"{batch.name} runs with {batch.model_version}")

        async for event in client.watch_batch(batch.name):
            if event.WhichOneof("event") == "slide" and event.slide.state == Slide.STATE_SUCCEEDED:
                print(f"{event.slide.slide_id} is done")

        async for slide in client.results(batch.name):
            outcome = Call.Outcome.Name(slide.call.outcome).removeprefix("OUTCOME_")
            found = [f"{finding.label} {finding.probability:.2f}" for finding in slide.call.findings]
            print(slide.slide_id, outcome, *found, "(review)" if slide.call.review_required else "")


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1], [Path(name) for name in sys.argv[2:]]))
    except GramserveError as error:
        sys.exit(f"{error.reason}: {error.message}")
