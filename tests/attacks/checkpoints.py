"""Hostile checkpoints, data archives and label files: made in a folder, then read under the limits of a job process.

`python -m tests.attacks.checkpoints FOLDER` reads all and prints, for each, the reason of its refusal, the CPU seconds
and the MiB by which the process grew.
"""

from __future__ import annotations

import io
import json
import pickle
import resource
import struct
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gramserve.errors import GramserveError
from gramserve.sandbox import confine
from gramserve.store.manifest import ArtifactManifest

MIB = 2**20
RAN = "code-ran"


class Runs:
    """A pickle that runs code when it is loaded."""

    def __init__(self, folder: Path) -> None:
        self._file = str(folder / RAN)

    def __reduce__(self) -> Any:
        return (open, (self._file, "w"))


def torch_zip(path: Path, data_pickle: bytes, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", data_pickle)
        file.writestr("archive/version", b"3\n")
        file.writestr("archive/byteorder", b"little")
        for name, data in members.items():
            file.writestr(f"archive/{name.replace('__', '/')}", data)


def storage_pickle(elements: int, size: tuple[int, ...], key: str = "0") -> bytes:
    """What torch writes for {"weight": tensor} of `size` in a storage of `elements` floats."""

    def text(word: str) -> bytes:
        return b"X" + struct.pack("<I", len(word)) + word.encode()

    def number(value: int) -> bytes:
        return b"\x8a" + bytes([8]) + value.to_bytes(8, "little", signed=True)

    sizes = b"(" + b"".join(number(one) for one in size) + b"t"
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu") + number(elements) + b"tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(0) + sizes + b"(" + number(1) * len(size)
    return b"\x80\x02}(" + text("weight") + tensor + b"t\x89}tRu."


def safetensors(header: bytes, *, says: int | None = None, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header) if says is None else says) + header + data


def tensor_header(shape: list[int], begin: int, end: int, kind: str = "F32") -> bytes:
    return json.dumps({"weight": {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}}).encode()


def make(folder: Path) -> None:
    """Writes all of them."""
    files: dict[str, bytes] = {
        "header of 2**63 bytes.safetensors": safetensors(b"{}", says=2**63 - 1),
        "header beyond the file.safetensors": safetensors(b"{}", says=10**8),
        "header nested without end.safetensors": safetensors(b'{"a":' * 1_000_000),
        "shape that overflows.safetensors": safetensors(tensor_header([2**32, 2**32], 0, 4), data=bytes(4)),
        "more than there is.safetensors": safetensors(tensor_header([10**9], 0, 4 * 10**9), data=bytes(4)),
        "offsets that go back.safetensors": safetensors(tensor_header([1], 4, 0), data=bytes(8)),
        "unknown kind.safetensors": safetensors(tensor_header([1], 0, 4, "PICKLE"), data=bytes(4)),
        "metadata nested without end.safetensors": safetensors(
            json.dumps(
                {
                    "__metadata__": {"gramserve": "[" * 200_000},
                    "weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
                }
            ).encode(),
            data=bytes(4),
        ),
        "pickle.pth": pickle.dumps({"weight": Runs(folder)}),
        "old pickle.pth": pickle.dumps({"weight": Runs(folder)}, protocol=0),
        "tar.pth": b"ustar" + bytes(1024),
        "text.pth": b"#!/bin/sh\n" * 100,
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    torch_zip(folder / "zip with a pickle that runs.pth", pickle.dumps({"weight": Runs(folder)}, protocol=2))
    torch_zip(folder / "zip with a system call.pth", b"cposix\nsystem\n(X\x04\0\0\0truetR.")
    torch_zip(folder / "zip with a built-in.pth", b"cbuiltins\nexec\n(X\x04\0\0\0passtR.")
    torch_zip(folder / "zip with torch's own loader.pth", b"ctorch\nload\n(X\x04\0\0\0/etctR.")
    torch_zip(folder / "zip with torch's own hub.pth", b"ctorch.hub\nload\n(X\x03\0\0\0a/bX\x01\0\0\0ctR.")
    torch_zip(folder / "zip that inflates.pth", storage_pickle(256, (256,)), data__0=bytes(512 * MIB))
    torch_zip(folder / "zip that promises a terabyte.pth", storage_pickle(2**38, (2**38,)), data__0=bytes(4))
    torch_zip(folder / "zip that looks beyond its storage.pth", storage_pickle(1, (10**6,)), data__0=bytes(4))
    torch_zip(folder / "zip that names a file outside.pth", storage_pickle(1, (1,), "../../../etc/passwd"))
    nested = b"\x80\x02" + b"]" * 1_000_000 + b"a" * 999_999 + b"."
    torch_zip(folder / "zip nested without end.pth", nested)
    torch_zip(folder / "zip of growing tuples.pth", b"\x80\x02)" + b"2\x86" * 64 + b".")
    overlapping(folder / "members that share their bytes.zip")
    for name in ("../escaped", "/etc/escaped", "train/../../escaped", "C:\\escaped", "train\\..\\escaped"):
        with zipfile.ZipFile(folder / f"path {len(name)}.zip", "w") as file:
            file.writestr(name, b"x")
    with zipfile.ZipFile(folder / "a link.zip", "w") as file:
        link = zipfile.ZipInfo("train/link")
        link.external_attr = 0o120777 << 16
        file.writestr(link, b"/etc")
    with zipfile.ZipFile(folder / "inflates.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("train/A/1.png", bytes(64 * MIB))
    (folder / "laughs.yaml").write_text(laughs("[*a{0}, *a{0}, *a{0}, *a{0}, *a{0}, *a{0}, *a{0}, *a{0}, *a{0}]"))
    (folder / "merging laughs.yaml").write_text(laughs("{{<<: [*a{0}, *a{0}, *a{0}, *a{0}, *a{0}, *a{0}, *a{0}]}}"))
    (folder / "nested.yaml").write_text("labels: " + "[" * 400_000)
    (folder / "object.yaml").write_text("labels: [!!python/object/apply:os.system ['true']]")
    (folder / "wide.yaml").write_text("labels: [" + "a," * 400_000 + "]")
    (folder / "huge number.yaml").write_text("labels: [" + "9" * 900_000 + "]")
    (folder / "sixties.yaml").write_text("labels: [" + "1" + ":1" * 400_000 + "]")
    (folder / "nested.json").write_bytes(b'{"a":' * 1_000_000)
    (folder / "wide.json").write_bytes(b"[" + b"{}," * 300_000 + b"{}]")
    (folder / "number.json").write_bytes(b'{"version": ' + b"9" * 900_000 + b"}")


def overlapping(path: Path) -> None:
    """A thousand members that are all the same few compressed bytes, each modest alone."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("train/0", bytes(150_000))
        first = file.infolist()[0]
        for number in range(1, 1000):
            copy = zipfile.ZipInfo(f"train/{number}")
            for field in ("compress_type", "CRC", "compress_size", "file_size", "header_offset", "flag_bits"):
                setattr(copy, field, getattr(first, field))
            file.filelist.append(copy)
        file._didModify = True  # type: ignore[attr-defined]
    path.write_bytes(buffer.getvalue())


def laughs(row: str) -> str:
    lines = ["a0: &a0 {name: x}"] + [f"a{n}: &a{n} {row.format(n - 1)}" for n in range(1, 12)]
    return "\n".join([*lines, "labels: [*a11]"])


def read_all(folder: Path) -> dict[str, tuple[str, float, float]]:
    """How each ends; run under `confine`."""
    from optimizer_svc.archive import extract_archive
    from optimizer_svc.labels import read_labels
    from optimizer_svc.weights import read_weights

    readers: dict[str, Callable[[Path], Any]] = {
        ".pth": read_weights,
        ".safetensors": read_weights,
        ".yaml": read_labels,
        ".json": lambda path: ArtifactManifest.from_json(path.read_bytes()),
        ".zip": lambda path: extract_archive(path, folder / "out" / path.stem),
    }
    found = {}
    for path in sorted(folder.iterdir()):
        if path.suffix not in readers:
            continue
        before, began = peak_mib(), time.process_time()
        try:
            readers[path.suffix](path)
            reason = ""
        except GramserveError as error:
            reason = error.reason.value
        except BaseException as error:
            reason = f"untyped {type(error).__name__}"
        found[path.name] = (reason, time.process_time() - began, peak_mib() - before)
    return found


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    where = Path(sys.argv[1])
    confine(writable=[where, Path(tempfile.gettempdir())])
    print(json.dumps(read_all(where)))
