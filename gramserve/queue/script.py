"""Runs the Lua transitions in `scripts/`: one file each, behind the shared prelude."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from gramserve.queue.connection import translated
from gramserve.queue.format import FORMAT


@dataclass(frozen=True, slots=True)
class Script:
    """One transition: its source and the SHA-1 under which Redis caches it."""

    source: str
    sha1: str


@cache
def script(name: str) -> Script:
    """The transition in `scripts/{name}.lua`, behind what it needs of the prelude, before the writing of its counts."""
    folder = files("gramserve.queue") / "scripts"
    prelude, transition = ((folder / f"{part}.lua").read_text(encoding="utf-8") for part in ("prelude", name))
    body = f"local function transition()\n{transition}\nend\nlocal reply = transition()\nwrite_counts()\nreturn reply\n"
    source = f"local FORMAT = '{FORMAT}'\n{_needed(prelude, body)}{body}"
    return Script(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


def _needed(prelude: str, body: str) -> str:
    """The paragraphs of the prelude whose names `body` uses, or one of them does: making all functions costs time."""
    needed = ""
    for paragraph in reversed(re.split(r"\n\n(?=\S)", prelude)):
        code = "\n".join(line for line in paragraph.splitlines() if not line.startswith("--"))
        names = re.findall(r"^local (?:function )?([\w, ]+)", code, re.MULTILINE)
        used = set(re.findall(r"\w+", needed + body))
        if used.intersection(re.findall(r"\w+", " ".join(names))):
            needed = f"{code}\n{needed}"
    return needed


class Scripts:
    """The transitions of one lane, whose keys all begin with `tag`, a hash tag such as `{gs:slides}`."""

    def __init__(self, redis: Redis, tag: str) -> None:
        self._redis = redis
        self._tag = tag

    async def run(self, name: str, *arguments: str | int) -> Any:
        """Runs one transition in one round trip and returns its reply; errors as `translated` says.

        Redis forgets scripts when it restarts. NOSCRIPT says that nothing ran, so sending the source is no repeat.
        """
        transition = script(name)
        with translated():
            try:
                return await self._redis.evalsha(transition.sha1, 1, self._tag, *arguments)
            except NoScriptError:
                return await self._redis.eval(transition.source, 1, self._tag, *arguments)
