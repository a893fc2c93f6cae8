"""A night: rounds of batches under random wounds, each round checked when its last batch has ended."""

from __future__ import annotations

import asyncio
import datetime
import random
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from redis.exceptions import RedisError

from gramserve.client import GramserveClient, Patience
from gramserve.errors import GramserveError, InvalidInput
from gramserve.v1.slide_batch_pb2 import Image, SlideBatch, SlideSource
from gramserve.v1.slide_pb2 import Slide
from tests.soak import checks
from tests.soak.checks import Submitted, Tally
from tests.soak.memory import Sample, watch
from tests.soak.specimens import Specimen, draw, fault, specimens
from tests.soak.stack import Stack
from tests.soak.wounds import inflict
from tests.waiting import until

PATIENCE = Patience(total_s=180.0, longest_wait_s=1.0)
ROUND_S = 45.0
STUCK_S = 300.0
TERMINAL = (Slide.STATE_SUCCEEDED, Slide.STATE_FAILED, Slide.STATE_CANCELLED, Slide.STATE_EXPIRED)


@dataclass(slots=True)
class Night:
    """One soak on a running stack; `say` is told each round in a line, `keep` is called after each."""

    stack: Stack
    folder: Path
    seed: int
    say: Callable[[str], None]
    keep: Callable[[Night], None] = lambda night: None
    round_s: float = ROUND_S
    clients: tuple[int, int] = (3, 6)
    """Fewest and most of a round."""
    pause_s: tuple[float, float] | None = (2.0, 10.0)
    """Shortest and longest between two wounds; None in a calm night, in which nothing is wounded."""
    tally: Tally = field(default_factory=Tally)
    samples: list[Sample] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    rounds: int = 0
    minutes: float = 0.0
    batches: list[Submitted] = field(default_factory=list)
    """Those of the round that runs, or ran last."""
    known: list[Specimen] = field(default_factory=specimens)
    _digests: dict[str, str] = field(default_factory=dict)
    _read_to: dict[Path, int] = field(default_factory=dict)

    async def run(self, minutes: float) -> None:
        """Rounds for `minutes` minutes; what is wrong goes into `tally.faults`, and the night goes on."""
        start = time.monotonic()
        watching = asyncio.create_task(watch(self.stack, self.samples, start))
        first, second = self.stack.gateways
        try:
            async with (
                GramserveClient(first, patience=PATIENCE) as one,
                GramserveClient(second, patience=PATIENCE) as two,
            ):
                await self._upload(one)
                while time.monotonic() - start < minutes * 60:
                    await self._round((one, two))
                    self.rounds += 1
                    self.minutes = (time.monotonic() - start) / 60
                    self.keep(self)
                    self.say(
                        f"{self.minutes:5.1f} min, round {self.rounds}: {self.tally.batches} batches, "
                        f"{self.tally.slides} slides, {self.tally.wounds.total()} wounds, "
                        f"{len(self.tally.faults)} faults"
                    )
        finally:
            watching.cancel()

    async def _upload(self, client: GramserveClient) -> None:
        for specimen in self.known:
            digest = await client.upload_image(specimen.data)
            self._digests[specimen.name] = digest
            if specimen.behaviour:
                (self.folder / "behaviours" / digest).write_text(specimen.behaviour)

    async def _round(self, clients: tuple[GramserveClient, GramserveClient]) -> None:
        dice = random.Random(f"{self.seed}/{self.rounds}")
        wounding = asyncio.create_task(self._wound(random.Random(f"{self.seed}/{self.rounds}/wounds")))
        batches = self.batches = []
        lives: list[asyncio.Task[None]] = []
        for _ in range(dice.randint(*self.clients)):
            lives.append(asyncio.create_task(self._live(clients, random.Random(dice.random()), batches)))
            await asyncio.sleep(dice.uniform(0, self.round_s / 5))
        try:
            async with asyncio.timeout(STUCK_S):
                for ended in await asyncio.gather(*lives, return_exceptions=True):
                    if isinstance(ended, BaseException):
                        self._fault(f"a client met {type(ended).__name__}: {ended}")
        except TimeoutError:
            for life in lives:
                life.cancel()
            await asyncio.gather(*lives, return_exceptions=True)
            self._fault(f"I1: batches were not done after {STUCK_S:.0f} s: {[batch.id for batch in batches]}")
        wounding.cancel()
        await asyncio.gather(wounding, return_exceptions=True)
        await self._check(clients, batches)

    async def _wound(self, dice: random.Random) -> None:
        while self.pause_s is not None:
            await asyncio.sleep(dice.uniform(*self.pause_s))
            if name := await inflict(self.stack, dice):
                self.tally.wounds[name] += 1

    async def _live(
        self, clients: tuple[GramserveClient, GramserveClient], dice: random.Random, batches: list[Submitted]
    ) -> None:
        """One client: a STAT slide, or a batch that is watched, perhaps cancelled, perhaps tried again."""
        client, other = dice.sample(clients, 2)
        if dice.random() < 0.3:
            await self._stat(client, dice)
        slides = draw(dice, self.known, dice.choice([1, 8, 32, 120]))
        batch = await self._submit(client, other, dice, slides)
        batches.append(batch)
        watching = asyncio.create_task(self._follow(other, batch))
        if dice.random() < 0.15:
            batch.may_stop = True
            await asyncio.sleep(dice.uniform(0, 4))
            await self._cancel(client, batch)
        await watching
        ended = await client.get_batch(batch.name)
        if ended.completion_stats.failed_count and not batch.may_stop and dice.random() < 0.2:
            await client.retry_batch(batch.name)
            await self._follow(other, batch, again=True)

    async def _submit(
        self, client: GramserveClient, other: GramserveClient, dice: random.Random, slides: list[Specimen]
    ) -> Submitted:
        """Creates the batch, and once more by the other gateway with the same request_id (I3)."""
        sources = [
            SlideSource(slide_id=f"S-{index:04d}", images=[Image(sha256=self._digests[one.name])])
            for index, one in enumerate(slides)
        ]
        request = str(uuid.UUID(int=dice.getrandbits(128), version=4))
        due = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=dice.uniform(1, 10))
        options = {
            "model": "models/gram",
            "stat": dice.random() < 0.2,
            "deliver_by": due if dice.random() < 0.1 else None,
            "reuse_results": dice.random() < 0.3,
            "request_id": request,
        }
        try:
            created = await client.create_batch(sources, **options)
        except InvalidInput:
            if options["deliver_by"] is None or due > datetime.datetime.now(datetime.UTC):
                raise
            # Nobody answered until the deadline had passed, and then it was refused: nothing was accepted.
            return await self._submit(client, other, dice, slides)
        batch = Submitted(created.name, request, slides, may_stop=options["deliver_by"] is not None)
        if dice.random() < 0.3:
            repeated = await other.create_batch(sources, **options)
            if repeated.name != created.name:
                self._fault(f"I3: one request made {created.name} and {repeated.name}")
        return batch

    async def _follow(self, client: GramserveClient, batch: Submitted, *, again: bool = False) -> None:
        last = 0
        async for event in client.watch_batch(batch.name):
            batch.jumped |= bool(last) and event.sequence > last + 1
            last = event.sequence
            if not again and event.WhichOneof("event") == "slide" and event.slide.state in TERMINAL:
                batch.told[event.slide.index] += 1
        if again:
            await until(lambda: self._ended(client, batch), timeout_s=STUCK_S)
        batch.watched = True

    @staticmethod
    async def _ended(client: GramserveClient, batch: Submitted) -> bool:
        state = (await client.get_batch(batch.name)).state
        return state not in (SlideBatch.STATE_QUEUED, SlideBatch.STATE_RUNNING, SlideBatch.STATE_CANCELLING)

    async def _cancel(self, client: GramserveClient, batch: Submitted) -> None:
        try:
            await client.cancel_batch(batch.name)
        except GramserveError as error:
            if error.reason.value != "BATCH_TERMINAL":
                raise

    async def _stat(self, client: GramserveClient, dice: random.Random) -> None:
        """One slide at once, of a good specimen."""
        specimen = dice.choice([one for one in self.known if one.good and not one.behaviour])
        source = await client.inline_slide("STAT", [specimen.data])
        call = asyncio.create_task(client.classify_slide(source, model="models/gram", timeout_s=STUCK_S))
        if dice.random() < 0.25:
            await asyncio.wait({call}, timeout=dice.uniform(0, 0.5))
            if call.cancel():
                self.tally.wounds["a STAT call given up"] += 1
                await asyncio.gather(call, return_exceptions=True)
                return
        slide = await call
        self.tally.stat += 1
        if wrong := fault(specimen, slide, "WORKER_CRASHED", stopped=False):
            self._fault(f"STAT: {wrong}")

    async def _redis_answers(self) -> bool:
        try:
            return bool(await self.stack.redis.ping())
        except RedisError:  # it was killed and is not back yet
            return False

    async def _check(self, clients: tuple[GramserveClient, GramserveClient], batches: list[Submitted]) -> None:
        await until(self._redis_answers, timeout_s=60)
        for batch in batches:
            try:
                async for wrong in checks.batch_is_right(clients[0], self.stack, batch, self.tally):
                    self._fault(f"{batch.id}: {wrong}")
            except Exception as error:
                self._fault(f"{batch.id} could not be checked: {type(error).__name__}: {error}")
        left: list[str] = []

        async def clean() -> bool:
            left[:] = [wrong async for wrong in checks.nothing_is_left(self.stack)]
            return not left

        try:
            await until(clean, timeout_s=30)
        except AssertionError:
            for wrong in left:
                self._fault(wrong)
        for line in checks.errors_in_logs(self.stack, self._read_to):
            self.errors[line.partition(": ")[0] + ": " + _without_time(line)] += 1
        for role, pid in self.stack.witnesses.items():
            if pid not in {process.pid for _, process in self.stack.processes()}:
                self._fault(f"the {role} that nobody killed has ended")
                del self.stack.witnesses[role]
                break

    def _fault(self, what: str) -> None:
        self.tally.faults.append(f"round {self.rounds}: {what}")
        self.say(f"FAULT in round {self.rounds}: {what}")


def _without_time(line: str) -> str:
    return line.partition(": ")[2].partition('"timestamp"')[0]
