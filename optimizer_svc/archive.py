"""Safe extraction of an uploaded data archive."""

from __future__ import annotations

import errno
import lzma
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from gramserve.errors import InvalidInput, Reason

CHUNK_BYTES = 1 << 20
# What bz2 raises, a place before the beginning, and names that clash or are too long; a full disk is not among them.
_OF_THE_ARCHIVE = frozenset({None, errno.EINVAL, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG})


def extract_archive(
    archive: Path, into: Path, *, max_bytes: int = 20 * 2**30, max_files: int = 500_000, max_ratio: int = 200
) -> Path:
    """Extracts a zip archive below `into` (made if absent) and returns the data folder: the one that holds train/.

    Refuses, with InvalidInput INVALID_DATASET and before a byte is written: names that leave the folder, absolute
    names, links and special files, encrypted members, more than `max_files` members and more than `max_bytes`
    uncompressed bytes. The bytes are counted again while writing, because a header can lie; what unpacks to
    more than `max_ratio` times its stored size, a member or all together, is refused as a bomb.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            members = _checked(file.infolist(), max_bytes, max_files, max_ratio)
            if sum(member.file_size for member, _ in members) > max_ratio * archive.stat().st_size:
                # Each may be modest where all of them share the same compressed bytes.
                raise _invalid("the data archive unpacks to far more than its size")
            into.mkdir(parents=True, exist_ok=True)
            left = max_bytes
            for member, path in members:
                target = into.joinpath(*path.parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                left -= _write(file, member, target, left)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, lzma.LZMAError, ValueError, RuntimeError, EOFError):
        raise _invalid("the data archive is not a readable zip file") from None
    except OSError as error:
        if error.errno not in _OF_THE_ARCHIVE:
            raise
        raise _invalid("the data archive is not a readable zip file") from None
    return data_folder(into)


def data_folder(root: Path) -> Path:
    """`root` itself or the only folder in it, whichever holds train/; InvalidInput INVALID_DATASET otherwise."""
    candidates = [root, *sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(("__", ".")))]
    for folder in candidates[:2] if len(candidates) == 2 else candidates[:1]:
        if (folder / "train").is_dir():
            return folder
    raise _invalid("the data archive has no train folder")


def _checked(
    infos: list[zipfile.ZipInfo], max_bytes: int, max_files: int, max_ratio: int
) -> list[tuple[zipfile.ZipInfo, PurePosixPath]]:
    files = [info for info in infos if not info.filename.endswith("/")]  # is_dir falls over a name without a letter
    if len(files) > max_files:
        raise _invalid(f"the data archive has more than {max_files} files")
    if sum(info.file_size for info in files) > max_bytes:
        raise _invalid(f"the data archive unpacks to more than {max_bytes} bytes")
    members = []
    for info in files:
        path = PurePosixPath(info.filename)
        kind = stat.S_IFMT(info.external_attr >> 16)
        bad_name = path.is_absolute() or ".." in path.parts or "\\" in info.filename or ":" in info.filename
        if bad_name or not path.parts or not info.filename.isprintable():
            raise _invalid("the data archive has a member whose name leaves the folder")
        if kind not in {0, stat.S_IFREG}:
            raise _invalid("the data archive has a link or special file")
        if info.flag_bits & 0x1:
            raise _invalid("the data archive is encrypted")
        if info.file_size > max_ratio * max(info.compress_size, 1024):
            raise _invalid("the data archive has a member that unpacks to far more than its size")
        members.append((info, path))
    return members


def _write(file: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, left: int) -> int:
    written = 0
    with file.open(member) as source, target.open("xb") as sink:
        while chunk := source.read(CHUNK_BYTES):
            written += len(chunk)
            if written > min(left, member.file_size):
                raise _invalid("the data archive unpacks to more bytes than it declares")
            sink.write(chunk)
    return written


def _invalid(message: str) -> InvalidInput:
    return InvalidInput(Reason.INVALID_DATASET, message)
