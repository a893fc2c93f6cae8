"""A network that a test can cut, slow down, deafen, or have lose exactly one reply of Redis."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from gramserve.queue.script import script

_PIECE_BYTES = 65536


@dataclass(frozen=True, slots=True)
class Exchange:
    """One command to Redis and the bytes of its reply."""

    words: tuple[bytes, ...]
    reply: bytes


Matches = Callable[[Exchange], bool]


# Replies of transitions that are asked for again and again and mostly have nothing to do.
_NOTHING = {"lease": b"*0", "reclaim": b"*1\r\n:0\r\n", "finish": b":0"}


def runs(name: str) -> Matches:
    """Matches each reply of the transition `name` that did something.

    An answer that Redis does not know the script is none, since nothing ran.
    """
    transition = script(name)
    sha1, source = transition.sha1.encode(), transition.source.encode()
    nothing = (b"-NOSCRIPT", *([_NOTHING[name]] if name in _NOTHING else []))

    def matches(exchange: Exchange) -> bool:
        return (
            len(exchange.words) > 1 and exchange.words[1] in {sha1, source} and not exchange.reply.startswith(nothing)
        )

    return matches


@dataclass(slots=True)
class Loss:
    """The replies that shall vanish: those of `times` matching exchanges from the `nth` on (1 is the first)."""

    matches: Matches
    nth: int
    times: int
    seen: int = 0
    lost: list[Exchange] = field(default_factory=list)

    def takes(self, exchange: Exchange) -> bool:
        """Whether this reply vanishes; counts it."""
        if not self.matches(exchange):
            return False
        self.seen += 1
        if not self.nth <= self.seen < self.nth + self.times:
            return False
        self.lost.append(exchange)
        return True

    @property
    def done(self) -> bool:
        """Whether all of them have vanished."""
        return len(self.lost) == self.times


class FaultProxy:
    """Forwards bytes between clients and the server at `target`: `host:port`, `unix:///path` or `redis://host:port`.

    `url` is the near side, in the form of `target`. Single replies can be lost of Redis only (RESP2, no subscriptions).
    """

    def __init__(self, target: str) -> None:
        self.lead_to(target)
        self._connections: set[_Connection] = set()
        self._listener: asyncio.Server | None = None
        self._open = asyncio.Event()
        self._open.set()
        self._is_cut = False
        self.delay_s = 0.0
        """How long each piece of bytes takes, in each direction."""
        self.losses: list[Loss] = []
        self.url = ""

    async def start(self, folder: Path) -> None:
        """Listens: on a unix socket in `folder`, or on a free port of the loopback."""
        if self._scheme == "unix":
            self._listener = await asyncio.start_unix_server(self._accept, folder / "near.sock")
            self.url = f"unix://{folder / 'near.sock'}"
        else:
            self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)
            port = self._listener.sockets[0].getsockname()[1]
            self.url = f"{self._scheme}://127.0.0.1:{port}" if self._scheme else f"127.0.0.1:{port}"

    async def stop(self) -> None:
        """Ends every connection and listens no more."""
        assert self._listener is not None
        self._listener.close()
        self.cut()
        for connection in list(self._connections):
            await connection.ended()
        await self._listener.wait_closed()

    # What a test tells it.

    def lead_to(self, target: str) -> None:
        """New connections go to this server, as after a fail-over; of the same kind as the one before."""
        self._scheme, _, rest = target.rpartition("://")
        self._target = unquote(urlsplit(target).path) if self._scheme == "unix" else rest.partition("/")[0]

    def cut(self) -> None:
        """Every connection breaks at once, and new ones break as soon as they are made."""
        self._is_cut = True
        for connection in list(self._connections):
            connection.close()

    def black_hole(self) -> None:
        """Connections stand and can be made, and nothing passes in either direction any more."""
        self._open.clear()

    def heal(self) -> None:
        """All is well again; what a black hole kept arrives now, late."""
        self._is_cut = False
        self.delay_s = 0.0
        self._open.set()

    def count(self, matches: Matches) -> Loss:
        """Counts matching exchanges from now on, in `seen`; loses none."""
        return self.lose(matches, nth=1, times=0)

    def lose(self, matches: Matches, *, nth: int = 1, times: int = 1) -> Loss:
        """The reply of the `nth` matching exchange from now on, and of those after it up to `times`, never arrives.

        The command was carried out; the connection breaks where the reply should have come.
        """
        loss = Loss(matches, nth, times)
        self.losses.append(loss)
        return loss

    # How bytes go.

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await self._connect()
        except OSError:  # the server is away: so are we
            writer.close()
            return
        connection = _Connection(self, (reader, writer), (far_reader, far_writer))
        if self._is_cut:
            connection.close()
            return
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._scheme == "unix":
            return await asyncio.open_unix_connection(self._target)
        host, _, port = self._target.rpartition(":")
        return await asyncio.open_connection(host, int(port))

    async def let_pass(self) -> None:
        """Returns when a piece of bytes may go on."""
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        await self._open.wait()


class _Connection:
    """One client's connection and ours to the server."""

    def __init__(
        self,
        proxy: FaultProxy,
        near: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        far: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self._proxy = proxy
        self._near, self._far = near, far
        self._asked: deque[tuple[bytes, ...]] = deque()
        self._tasks: list[asyncio.Task[None]] = []
        self._over = asyncio.Event()

    async def run(self) -> None:
        """Returns when the connection is over."""
        self._tasks = [asyncio.create_task(self._requests()), asyncio.create_task(self._replies())]
        try:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.close()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._over.set()

    def close(self) -> None:
        """Breaks both sides."""
        for task in self._tasks:
            task.cancel()
        for _, writer in (self._near, self._far):
            writer.transport.abort()

    async def ended(self) -> None:
        """Waits until nothing of it is left."""
        await self._over.wait()

    async def _requests(self) -> None:
        frames = Frames()
        with suppress(OSError):
            while piece := await self._near[0].read(_PIECE_BYTES):
                self._asked.extend(words_of(frame) for frame in frames.feed(piece) if frame.startswith(b"*"))
                await self._proxy.let_pass()
                self._far[1].write(piece)
                await self._far[1].drain()

    async def _replies(self) -> None:
        frames = Frames()
        with suppress(OSError):
            while piece := await self._far[0].read(_PIECE_BYTES):
                await self._proxy.let_pass()
                passing, over = self._without_lost(piece, frames)
                self._near[1].write(passing)
                await self._near[1].drain()
                if over:
                    return

    def _without_lost(self, piece: bytes, frames: Frames) -> tuple[bytes, bool]:
        """What of a piece passes, and whether a reply was lost in it: nothing passes after that."""
        position = -frames.unfinished  # where in the piece the next frame begins, perhaps before it
        for frame in frames.feed(piece):
            if not self._asked:
                break  # not RESP: nothing was taken apart
            exchange = Exchange(self._asked.popleft(), frame)
            taken = [loss.takes(exchange) for loss in self._proxy.losses]  # each counts what it sees
            if any(taken):
                return piece[: max(position, 0)], True
            position += len(frame)
        return piece, False


class Frames:
    """Cuts a stream of RESP2 into whole frames; a stream of anything else gives none."""

    def __init__(self) -> None:
        self._buffer = b""
        self._resp = True

    @property
    def unfinished(self) -> int:
        """Bytes of a frame that is not whole yet."""
        return len(self._buffer)

    def feed(self, piece: bytes) -> list[bytes]:
        """The frames that are whole with this piece."""
        found: list[bytes] = []
        if not self._resp:
            return found
        self._buffer += piece
        try:
            while (end := _end_of(self._buffer, 0)) is not None:
                found.append(self._buffer[:end])
                self._buffer = self._buffer[end:]
        except ValueError:
            self._resp, self._buffer = False, b""
        return found


def words_of(frame: bytes) -> tuple[bytes, ...]:
    """The words of a command, which is an array of bulk strings; the first is in upper case."""
    count, _, rest = frame.partition(b"\r\n")
    words = []
    for _ in range(int(count[1:])):
        size, _, rest = rest.partition(b"\r\n")
        length = int(size[1:])
        words.append(rest[:length])
        rest = rest[length + 2 :]
    return (words[0].upper(), *words[1:])


def _end_of(data: bytes, start: int) -> int | None:
    """Where the frame that begins at `start` ends, None while it is not all there; ValueError when it is none."""
    if start >= len(data):
        return None
    kind, line = data[start : start + 1], data.find(b"\r\n", start)
    if kind not in b"+-:$*":
        raise ValueError("this is no RESP2")
    if line < 0:
        return None
    end = line + 2
    if kind in b"+-:":
        return end
    count = int(data[start + 1 : line])
    if kind == b"$":
        end += count + 2 if count >= 0 else 0
        return end if end <= len(data) else None
    for _ in range(count):
        inner = _end_of(data, end)
        if inner is None:
            return None
        end = inner
    return end


@asynccontextmanager
async def fault_proxy(target: str, folder: Path) -> AsyncIterator[FaultProxy]:
    """A proxy before `target`, whose unix socket, where it has one, lies in `folder`."""
    folder.mkdir(exist_ok=True)
    proxy = FaultProxy(target)
    await proxy.start(folder)
    try:
        yield proxy
    finally:
        await proxy.stop()
