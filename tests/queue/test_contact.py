"""When a sweeper may take leases back."""

from __future__ import annotations

import pytest

from gramserve.errors import Reason, Unavailable
from gramserve.queue import ContactWatch, Queue, Server

LEASE_S = 30.0


class Clocks:
    """Our clock, the server's clock and the server's life."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.ahead = 0.0
        self.started = 0.0
        self.run_id = "a"
        self.watch = ContactWatch(LEASE_S, clock=lambda: self.now)

    def look(self, after_s: float = 0.0) -> bool:
        """Looks at Redis after a while; whether reclaiming is fair then."""
        self.now += after_s
        self.watch.seen(Server(self.run_id, self.now - self.started, self.now + self.ahead))
        return self.watch.settled


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


def test_nothing_is_reclaimed_before_the_first_contact(clocks: Clocks) -> None:
    assert not clocks.watch.settled


def test_a_redis_that_has_long_been_up_can_be_swept_at_once(clocks: Clocks) -> None:
    assert clocks.look()


def test_after_a_loss_of_contact_reclaiming_waits_one_full_lease(clocks: Clocks) -> None:
    assert clocks.look()
    clocks.watch.lost()
    assert not clocks.watch.settled
    assert not clocks.look(after_s=100)
    assert not clocks.look(after_s=LEASE_S - 1)
    assert clocks.look(after_s=1)
    assert clocks.watch.restarts == 0


def test_a_loss_before_the_first_contact_counts_too(clocks: Clocks) -> None:
    clocks.watch.lost()
    assert not clocks.look()
    assert clocks.look(after_s=LEASE_S)


def test_a_young_redis_is_left_alone_until_it_is_one_lease_old(clocks: Clocks) -> None:
    clocks.started = clocks.now - 10
    assert not clocks.look()
    assert not clocks.look(after_s=19)
    assert clocks.look(after_s=1)


def test_a_restart_between_two_looks_is_noticed(clocks: Clocks) -> None:
    assert clocks.look()
    clocks.run_id, clocks.started = "b", clocks.now
    assert not clocks.look(after_s=1)
    assert clocks.watch.restarts == 1
    assert not clocks.look(after_s=LEASE_S - 1)
    assert clocks.look(after_s=1)


def test_a_failover_to_an_old_replica_is_noticed(clocks: Clocks) -> None:
    assert clocks.look()
    clocks.run_id = "b"
    assert not clocks.look(after_s=1)
    assert clocks.look(after_s=LEASE_S)


def test_a_machine_that_slept_gives_its_workers_a_lease_to_renew(clocks: Clocks) -> None:
    assert clocks.look()
    clocks.ahead += 3600  # our monotonic clock stood still, the wall clock did not
    assert not clocks.look(after_s=1)
    assert clocks.look(after_s=LEASE_S)


async def test_it_reads_what_the_queue_says_of_its_server(queue: Queue) -> None:
    watch = ContactWatch(0.0)
    watch.seen(await queue.server())
    watch.seen(await queue.server())
    assert watch.settled
    assert watch.restarts == 0


def test_a_clock_that_went_back_behind_the_start_of_redis_stops_no_sweep(clocks: Clocks) -> None:
    assert clocks.look(after_s=10 * LEASE_S)
    clocks.started = clocks.now + 3600
    assert clocks.look(after_s=1)


async def test_an_answer_that_took_longer_than_half_a_lease_counts_as_a_loss(clocks: Clocks) -> None:
    assert clocks.look()

    async def late() -> Server:
        clocks.now += LEASE_S / 2 + 1
        return Server(clocks.run_id, clocks.now, clocks.now)

    await clocks.watch.look(late)
    assert not clocks.watch.settled
    assert not clocks.look(after_s=LEASE_S - 1)
    assert clocks.look(after_s=1)


async def test_a_look_that_fails_is_a_loss(clocks: Clocks) -> None:
    assert clocks.look()

    async def nobody_there() -> Server:
        raise Unavailable(Reason.QUEUE_UNAVAILABLE, "the queue cannot be reached")

    with pytest.raises(Unavailable):
        await clocks.watch.look(nobody_there)
    assert not clocks.watch.settled
