"""Structured logs, as a process really writes them."""

from __future__ import annotations

import json
import subprocess
import sys

from gramserve import log
from tests.waiting import HANGS_S


def _logged(code: str, style: str = "json", level: str = "INFO") -> list[str]:
    """The lines that `code` writes to standard error in a process of its own."""
    head = f"from gramserve import log\nlog.configure('gateway', level={level!r}, style={style!r})\n"
    done = subprocess.run(
        [sys.executable, "-c", head + code], capture_output=True, text=True, check=True, timeout=HANGS_S
    )
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_an_event_is_one_json_line_with_service_level_time_and_context() -> None:
    (line,) = _logged("log.get(part='queue').warning('redis lost', since_s=3)")
    entry = json.loads(line)
    assert entry.pop("timestamp").endswith("Z")
    assert entry == {"event": "redis lost", "level": "warning", "service": "gateway", "part": "queue", "since_s": 3}


def test_people_can_have_text_instead() -> None:
    (line,) = _logged("log.get().info('ready', port=1)", style="text")
    assert "ready" in line
    assert "port" in line


def test_events_below_the_level_are_not_written() -> None:
    assert _logged("log.get().info('a'); log.get().error('b')", level="ERROR")[0].count('"b"') == 1


def test_a_line_break_in_a_value_does_not_make_a_second_line() -> None:
    assert len(_logged("log.get().info('a', text='x\\ny')")) == 1


def test_a_library_that_logs_an_exception_leaks_neither_its_message_nor_a_stack_trace() -> None:
    code = """
import logging
try:
    raise ValueError('slide of Jane Doe')
except ValueError:
    logging.getLogger('some.library').exception('cannot read %s', 'Jane Doe')
logging.getLogger('some.library').warning('chatter about Jane Doe')
"""
    lines = _logged(code)
    assert "Jane" not in "".join(lines)
    assert "Traceback" not in "".join(lines)
    (line,) = lines
    entry = json.loads(line)
    assert entry["logger"] == "some.library"
    assert entry["level"] == "error"
    assert entry["error"].startswith("ValueError in <module>, line ")


def test_an_unexpected_error_is_described_by_type_and_place_alone() -> None:
    def fail() -> None:
        raise KeyError("Jane Doe")

    try:
        fail()
    except KeyError as error:
        text = log.describe(error)
    assert "Jane" not in text
    assert text.startswith("KeyError in ")
    assert "fail, line " in text
    assert log.describe(KeyError("Jane Doe")) == "KeyError"


def test_an_uncaught_exception_leaks_neither_its_message_nor_a_stack_trace() -> None:
    code = """
import threading
def fail():
    raise ValueError('slide of Jane Doe')
thread = threading.Thread(target=fail)
thread.start()
thread.join()
import sys
sys.excepthook(ValueError, ValueError('Jane Doe'), None)
"""
    entries = [json.loads(line) for line in _logged(code)]
    assert [entry["event"] for entry in entries] == ["uncaught", "uncaught"]
    assert [entry["error"] for entry in entries] == ["ValueError in fail, line 6", "ValueError"]
