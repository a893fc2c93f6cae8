"""Our own source files, parsed, for tests of the house itself."""

from __future__ import annotations

import ast
import functools
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("gramserve", "gateway", "inference_svc", "optimizer_svc")
GENERATED = ("gramserve/v1/", "gramserve/oip/")


@dataclass(frozen=True, slots=True)
class Module:
    """One Python file: its dotted name, its path from the root, its syntax tree."""

    name: str
    path: str
    tree: ast.Module

    def imports(self) -> Iterator[str]:
        """Dotted names of all that it imports, also inside functions; names taken from a module come with it."""
        package = self.name if self.path.endswith("__init__.py") else self.name.rpartition(".")[0]
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = node.module or ""
                if node.level:
                    base = ".".join([*package.split(".")[: len(package.split(".")) + 1 - node.level], base]).strip(".")
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names)


def tracked() -> list[str]:
    """Files that are, or would be, committed."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return sorted(name for name in set(listed) if name and (ROOT / name).is_file())


def python_files() -> list[str]:
    """Those of them that are Python and written by hand."""
    return [name for name in tracked() if name.endswith(".py") and not name.startswith(GENERATED)]


@functools.cache
def modules() -> tuple[Module, ...]:
    """The modules of our packages, without generated ones."""
    found = []
    for path in python_files():
        if path.split("/")[0] in PACKAGES:
            name = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            found.append(Module(name, path, ast.parse((ROOT / path).read_text())))
    return tuple(found)
