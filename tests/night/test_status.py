"""`gramserve status`: what an operator sees of the night in a terminal, and what it says needs a person."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from gramserve.access.principal import Role
from gramserve.cli.status_view import alarms, status_view
from gramserve.night.words import NOTHING
from gramserve.queue import Card, Roster
from gramserve.v1 import slide_batch_pb2 as b
from gramserve.v1.operations_pb2 import SystemStatus
from tests.doors.callers import Callers
from tests.e2e.running import GRAMSERVE
from tests.gateway.stack import Stack, request
from tests.night.statuses import night, worker
from tests.services import redis_server
from tests.waiting import HANGS_S, until


@pytest.fixture(autouse=True)
def _times_are_told_in_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


def shown(status: SystemStatus, width: int = 150) -> str:
    console = Console(width=width, record=True, file=StringIO())
    console.print(status_view(status, "gateway:50051"))
    return " ".join(console.export_text().split())


def test_all_slides_are_in_one_sum() -> None:
    assert "4,811 slides = 3,229 succeeded + 17 failed + 0 expired + 0 cancelled + 1,565 to do" in shown(night())


def test_the_end_is_told_beside_what_is_due() -> None:
    text = shown(night())
    assert "67.5 % 0.4 slides/s done at 04:15" in text
    assert "north/night-north ROUTINE running 4,410 2,846 8 49 06:30 ~04:15 gram 3" in text
    assert f"north/evening ROUTINE partially succeeded 400 400 9 12 {NOTHING} 01:12 gram 3" in text


def test_workers_failures_and_the_oldest_STAT_slide_are_told() -> None:
    text = shown(night())
    assert "queue: 1 STAT (oldest 40 ms), 1,530 routine (oldest 3 h 10 min), 34 with workers, 2 to be tried" in text
    assert "scan-2-4711-a1b2c3 0.1.0 4 of 4 17 4.1 s 900 ms ago gram 3, gram 4" in text
    assert "failures in ended batches: CORRUPT_IMAGE 7, UNSUPPORTED_FORMAT 2" in text


def test_a_night_that_goes_well_has_no_alarm() -> None:
    assert alarms(night()) == []
    assert alarms(SystemStatus(release="0.1.0")) == []


def test_what_needs_a_person_is_told_first() -> None:
    status = night(late_count=1200)
    assert alarms(status) == ["1,200 slides will not be done when they are due"]
    text = shown(status)
    assert text.index("! 1,200 slides will not") < text.index("4,811 slides =")


def test_slides_that_wait_without_a_worker_that_takes_them_are_an_alarm() -> None:
    status = night()
    del status.workers[:]
    assert alarms(status) == ["1,531 slides wait, and no worker takes slides"]
    assert "no worker was heard of" in shown(status)
    status.workers.append(worker(serving=False))
    assert len(alarms(status)) == 1
    status.workers.append(worker("another"))
    assert alarms(status) == []


def test_a_worker_that_fell_silent_takes_no_slides() -> None:
    status = night()
    for one in status.workers:
        one.age.FromSeconds(10)
    assert alarms(status) == ["1,531 slides wait, and no worker takes slides"]
    status.workers[0].age.FromMilliseconds(9999)
    assert alarms(status) == []


def test_an_estimate_that_knows_nothing_of_other_laboratories_says_so() -> None:
    told = "other laboratories have slides too: those above may end later than told"
    assert told not in shown(night())
    assert told in shown(night(others_open=True))
    status = night(others_open=True)
    status.completion_stats.ClearField("queued_count")
    status.completion_stats.ClearField("running_count")
    assert told not in shown(status)  # nothing of theirs is to be done


def test_what_only_a_newer_release_knows_is_unknown() -> None:
    status = night()
    status.slide_batches[1].state = status.slide_batches[1].priority = 99
    assert "north/night-north UNKNOWN unknown 4,410" in shown(status)


def test_a_STAT_slide_that_waits_is_an_alarm_and_a_routine_one_is_not() -> None:
    status = night()
    status.queue.oldest_stat_wait.FromSeconds(61)
    assert [" ".join(alarm.split()) for alarm in alarms(status)] == ["a STAT slide has waited for 61.0 s"]


def test_releases_that_differ_are_an_alarm() -> None:
    status = night()
    status.workers[1].release = "0.2.0"
    assert alarms(status) == ["gateway and workers are of different releases"]


def test_many_batches_and_workers_are_cut_short_with_a_word() -> None:
    status = night(slide_batch_count=240)
    status.slide_batches.extend([status.slide_batches[2]] * 97)
    status.workers.extend(worker(f"w-{number}") for number in range(40))
    text = shown(status)
    assert "... and 225 more" in text
    assert "... and 22 more" in text


@pytest.mark.parametrize("width", [80, 120])
def test_nothing_breaks_in_a_narrow_terminal(width: int) -> None:
    console = Console(width=width, record=True, file=StringIO())
    console.print(status_view(night(), "gateway:50051"))
    assert all(len(line) <= width for line in console.export_text().splitlines())


# With a real gateway.


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    """A gateway that tells callers apart."""
    callers = Callers(tmp_path)
    for role in (Role.OPERATOR, Role.SUBMITTER):
        token = callers.add(role.value, [role], ["north"])
        (tmp_path / f"{role.value}.token").write_text(token)
        (tmp_path / f"{role.value}.token").chmod(0o600)
    async with redis_server(tmp_path / "redis") as redis:
        stack = Stack(tmp_path, redis, access_file=str(callers.path))
        await stack.publish()
        await stack.start()
        try:
            yield stack
        finally:
            await stack.stop()


def command(stack: Stack, role: Role, *words: str) -> list[str]:
    assert stack.app is not None
    token = str(stack.folder / f"{role.value}.token")
    return [GRAMSERVE, "--token-file", token, "status", "--gateway", f"127.0.0.1:{stack.app.port}", *words]


async def said(stack: Stack, role: Role, *words: str) -> tuple[int, str, str]:
    done = await asyncio.to_thread(
        subprocess.run, command(stack, role, *words), capture_output=True, text=True, timeout=HANGS_S, check=False
    )
    return done.returncode, done.stdout, done.stderr


async def submit(stack: Stack, count: int, **fields: object) -> b.SlideBatch:
    token = (stack.folder / "submitter.token").read_text()
    made: b.SlideBatch = await stack.api.CreateSlideBatch(
        request(count, **fields), metadata=(("authorization", f"Bearer {token}"),)
    )
    return made


async def test_an_operator_sees_the_night_once_and_the_exit_code_says_whether_it_goes_well(stack: Stack) -> None:
    await submit(stack, 3)
    code, out, _ = await said(stack, Role.OPERATOR, "--once")
    assert code == 1
    assert "! 3 slides wait, and no worker takes slides" in out
    assert "3 slides = 0 succeeded + 0 failed + 0 expired + 0 cancelled + 3 to do" in out
    card = Card("0.1.0", 2, 2, 0, 0.0, ("models/gram/versions/1",), serving=True)
    await Roster(stack._redis_client, "slides").announce("w-7", card)
    code, out, _ = await said(stack, Role.OPERATOR, "--once")
    assert (code, "w-7" in out, "!" in out) == (0, True, False)


async def test_a_program_gets_JSON_with_the_same_exit_code(stack: Stack) -> None:
    await submit(stack, 3)
    code, out, _ = await said(stack, Role.OPERATOR, "--json")
    found = json.loads(out)
    assert code == 1
    assert found["completionStats"]["queuedCount"] == "3"
    assert found["queue"]["routineCount"] == "3"
    assert found["workers"] == []


async def test_whoever_is_no_operator_is_refused_in_one_line(stack: Stack) -> None:
    code, out, error = await said(stack, Role.SUBMITTER, "--once")
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert "PERMISSION_DENIED" in error


class Terminal:
    """`gramserve status` in a terminal of its own."""

    def __init__(self, words: list[str]) -> None:
        self._ours, theirs = pty.openpty()
        os.set_blocking(self._ours, False)
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "140", "LINES": "40"}
        # Where the tests are a background job of a shell they ignore Ctrl-C, and so would what they start.
        former = signal.signal(signal.SIGINT, signal.default_int_handler)
        self.process = subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
        signal.signal(signal.SIGINT, former)
        os.close(theirs)
        self._seen = b""

    @property
    def seen(self) -> str:
        """Everything that was drawn so far."""
        try:
            while part := os.read(self._ours, 65536):
                self._seen += part
        except (BlockingIOError, OSError):
            pass
        return self._seen.decode(errors="replace")

    @property
    def ended(self) -> bool:
        """Whether it has ended; what it still draws is read, as it waits for that."""
        return bool(self.seen) and self.process.poll() is not None

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._ours)


async def test_live_it_follows_the_night_outlives_the_gateway_and_ends_with_Ctrl_C(stack: Stack) -> None:
    await submit(stack, 3)
    terminal = Terminal(command(stack, Role.OPERATOR, "--interval", "0.2"))
    try:
        await until(lambda: "3 to do" in terminal.seen)
        await stack.worker.drain()
        await until(lambda: "3 succeeded" in terminal.seen)
        assert stack.app is not None
        port = stack.app.port
        await stack.stop_gateway()
        await until(lambda: "no answer since" in terminal.seen)
        drawn = len(terminal.seen)
        await stack.start(listen=f"127.0.0.1:{port}")
        await submit(stack, 4)
        await until(lambda: "4 to do" in terminal.seen[drawn:])
        terminal.process.send_signal(signal.SIGINT)
        await until(lambda: terminal.ended)
        assert terminal.process.returncode == 130
    finally:
        terminal.close()
