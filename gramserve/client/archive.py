"""A data folder as one zip file that is the same for the same content, so that its upload happens once."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

from gramserve.errors import InvalidInput, Reason

_BEGINNING_OF_ZIP_TIME = (1980, 1, 1, 0, 0, 0)


def zip_folder(folder: Path, archive: Path) -> int:
    """Write every file below `folder` into `archive`, uncompressed (images are already); returns how many.

    Hidden files stay behind. Raises InvalidInput (INVALID_DATASET) when there is nothing to write, OSError as it comes.
    """
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not files:
        raise InvalidInput(Reason.INVALID_DATASET, "the data folder holds no files")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as zipped:
        for path in files:
            entry = zipfile.ZipInfo(path.relative_to(folder).as_posix(), _BEGINNING_OF_ZIP_TIME)
            with path.open("rb") as source, zipped.open(entry, "w", force_zip64=True) as target:
                shutil.copyfileobj(source, target, 1 << 20)
    return len(files)
