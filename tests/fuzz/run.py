"""One target under atheris, in this process: `python -m tests.fuzz.run TARGET LIBFUZZER-ARGUMENTS...`."""

from __future__ import annotations

import importlib
import sys

import atheris


def main() -> None:
    """Never returns: libFuzzer ends the process."""
    name, arguments = sys.argv[1], sys.argv[2:]
    # What is imported from here on counts its branches.
    with atheris.instrument_imports(include=_modules(name), enable_loader_override=False):
        target = importlib.import_module("tests.fuzz.catalogue").TARGETS[name]
    with target.opened() as run:
        atheris.Setup([sys.argv[0], *arguments], run)
        atheris.Fuzz()


def _modules(name: str) -> list[str]:
    return {
        "images": ["gramserve.images"],
        "slides": ["gramserve.images", "inference_svc", "pydicom"],
        "labels": ["optimizer_svc", "yaml"],
        "archives": ["optimizer_svc", "zipfile"],
        "slide_manifests": ["gateway", "gramserve", "google.protobuf.json_format"],
    }.get(name, ["gateway", "gramserve", "inference_svc", "optimizer_svc"])


if __name__ == "__main__":
    main()
