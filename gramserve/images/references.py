"""What a reference to a local file may look like, before anything is opened."""

from __future__ import annotations

import os
from urllib.parse import unquote, urlsplit


class NotLocal(Exception):
    """A reference that names no file of this server; the text says why, and never what the reference was."""


def local_path(uri: str) -> str:
    """The absolute path that `uri` ("file:///..." or a plain path) names; raises NotLocal for anything else."""
    path = uri
    if uri.startswith("file:"):
        try:
            parts = urlsplit(uri)
        except ValueError:
            raise NotLocal("is not a valid file URI") from None
        if parts.netloc not in {"", "localhost"} or parts.query or parts.fragment:
            raise NotLocal("is not a plain file URI of this server")
        path = unquote(parts.path)
    if not path.startswith("/"):
        raise NotLocal("is neither something uploaded nor an absolute path on this server")
    if "\0" in path or ".." in path.split("/"):
        raise NotLocal("is not a plain path")
    return path


def under(path: str, roots: set[str]) -> bool:
    """Whether the absolute, normal `path` is one of `roots` or lies below one."""
    return any(os.path.commonpath((path, root)) == root for root in roots)
