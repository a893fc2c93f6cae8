"""The Lua transitions as files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import gramserve.queue
from gramserve.queue import Queue
from gramserve.queue.script import script
from tests.queue.lane import Lane

FOLDER = Path(gramserve.queue.__file__).parent / "scripts"
LOOKS = ("depth", "roster")
TRANSITIONS = sorted(path.stem for path in FOLDER.glob("*.lua") if path.stem != "prelude")


@pytest.mark.parametrize("name", TRANSITIONS)
def test_every_transition_states_its_keys_arguments_result_and_invariant(name: str) -> None:
    header = [line for line in (FOLDER / f"{name}.lua").read_text().splitlines() if line.startswith("--")]
    assert header[0].startswith(f"-- {name}: ")
    for part in ("KEYS", "Result") if name in LOOKS else ("KEYS", "ARGV", "Result", "Invariant:"):
        assert any(line.startswith(f"-- {part}") for line in header), part


def test_every_transition_is_run_by_the_queue_and_has_a_file() -> None:
    source = "".join((FOLDER.parent / f"{name}.py").read_text() for name in ("queue", "roster"))
    assert set(re.findall(r'_scripts\.run\(\s*"(\w+)"', source)) == set(TRANSITIONS)


@pytest.mark.parametrize("name", [n for n in TRANSITIONS if n not in ("open", "submit", *LOOKS)])
def test_I10_whatever_finishes_work_begins_with_a_delete(name: str) -> None:
    code = [line for line in (FOLDER / f"{name}.lua").read_text().splitlines() if line and not line.startswith("--")]
    assert code[0] == "work_when_full()"


def test_the_document_names_every_transition_every_key_and_every_state() -> None:
    document = (FOLDER.parents[2] / "docs" / "queue.md").read_text()
    prelude = (FOLDER / "prelude.lua").read_text()
    for name in TRANSITIONS:
        assert f"| `{name}` |" in document
    for key in re.findall(r"^--   (:\w+(?::[A-Z])?)|  (:\w+(?::[A-Z])?) ", prelude, re.MULTILINE):
        assert f"`{max(key)}`" in document, key
    for state in ("SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED"):
        assert f"{state} --> [*]" in document


@pytest.mark.parametrize("name", TRANSITIONS)
def test_a_transition_gets_all_of_the_prelude_that_it_uses(name: str) -> None:
    prelude = (FOLDER / "prelude.lua").read_text()
    names = re.findall(r"\w+", " ".join(re.findall(r"^local (?:function )?([\w, ]+)", prelude, re.MULTILINE)))
    source = re.sub(r"--.*|'[^']*'", "", script(name).source)
    for used in set(names) & set(re.findall(r"\w+", source)):
        defined = re.search(rf"^local (?:function )?(?:\w+, )*{used}\b", source, re.MULTILINE)
        assert defined is not None, used
        assert defined.start() <= re.search(rf"\b{used}\b", source).start()  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["prelude", *TRANSITIONS])
def test_scripts_run_on_6_2_too(name: str) -> None:
    assert not (FOLDER / f"{name}.lua").read_text().startswith("#!")


async def test_a_redis_that_forgot_the_scripts_is_told_again(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/b", 2)
    await lane.redis.script_flush()
    lease = await lane.lease_one()
    await lane.redis.script_flush()
    assert (await queue.complete(lease, "w1", "SUCCEEDED")).accepted


async def test_all_keys_of_a_lane_share_its_hash_tag(lane: Lane, queue: Queue) -> None:
    await lane.redis.flushall()
    await lane.fill("lab/b", 5)
    leases = await queue.lease("w1", 3, idle=True)
    await queue.fail(leases[0], "w1", crash=True, delay_s=9)
    await queue.complete(leases[1], "w1", "SUCCEEDED")
    await queue.complete(leases[1], "w1", "SUCCEEDED")
    await queue.drain("w2")
    await lane.open("lab/c", 1)
    await queue.cancel("lab/c")
    await queue.submit("lab/c", [0])
    keys = [key async for key in lane.redis.scan_iter("*")]
    assert len(keys) > 10
    assert {key.partition(":ready")[0] if key.endswith(":ready") else key[: len(lane.key("")) - 1] for key in keys} == {
        f"{{gs:{lane.name}}}"
    }


async def test_two_lanes_do_not_touch_each_other(lane: Lane, queue: Queue) -> None:
    other = Lane(lane.redis)
    await lane.fill("lab/b", 1)
    assert await other.queue.lease("w1", 1, idle=True) == []
    assert await other.queue.snapshot("lab/b") is None
    await other.queue.aclose()


async def test_nothing_of_a_patient_reaches_redis(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/b", 2)
    await queue.lease("w1", 1, idle=True)
    stored = set(await lane.redis.hgetall(lane.key("batch:lab/b"))) | set(
        await lane.redis.hgetall(lane.key("entry:lab/b/000000"))
    )
    assert stored <= {
        *("round", "total", "succeeded", "failed", "cancelled", "expired", "review", "running", "live", "base"),
        *("score", "hard_ms", "accepted_ms", "first_ms", "last_ms", "high", "sealed", "sequence"),
        *("version", "digest", "stopping", "finished", "token", "worker", "attempts", "crashes"),
    }
