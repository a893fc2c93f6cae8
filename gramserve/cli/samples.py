"""gramserve samples: labelled synthetic tiles for a first look without data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gramserve.cli.speech import console, refuse


def samples(
    folder: Annotated[Path, typer.Argument(help="Folder to write; must be new or empty.", metavar="DIR")],
    train: Annotated[int, typer.Option(help="Training tiles of each class.", min=1)] = 120,
    val: Annotated[int, typer.Option(help="Validation tiles of each class.", min=1)] = 120,
    tile_px: Annotated[int, typer.Option(help="Edge of a tile in pixels.", min=64, max=1024)] = 160,
    seed: Annotated[int, typer.Option(help="Seed of everything random.", min=0)] = 0,
) -> None:
    """Draw labelled synthetic Gram tiles as an ImageFolder with labels.yaml: for a first look, not for patients."""
    try:
        from gramserve import samples as drawing  # noqa: PLC0415
    except ImportError as error:
        raise refuse(f"drawing samples needs {error.name}: pip install 'gramserve[worker]'") from None
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise refuse(f"{folder} is not empty; name a new folder")
    count = drawing.write_image_folder(folder, {"train": train, "val": val}, tile_px=tile_px, seed=seed)
    drawing.write_labels_yaml(folder / "labels.yaml")
    console().print(f"{folder}: {count} tiles of {len(drawing.LABELS)} classes, labels in labels.yaml")
