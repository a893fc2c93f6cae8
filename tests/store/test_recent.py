"""The memory of things read lately, which threads share."""

from __future__ import annotations

from threading import Thread

import pytest

from gramserve.store.recent import Recent


def test_the_entry_used_longest_ago_goes_first() -> None:
    recent: Recent[str, int] = Recent(2)
    for number, key in enumerate("ab"):
        recent.add(key, number)
    assert recent.get("a") == 0
    recent.add("c", 2)
    assert [recent.get(key) for key in "abc"] == [0, None, 2]


@pytest.mark.parametrize("look", [1, 2, 3])
def test_another_thread_pushes_nothing_out_while_it_is_looked_at(look: int) -> None:
    recent: Recent[str, int] = Recent(1)
    other = Thread(target=recent.add, args=("another", 2))

    class Interrupted(str):
        """A key during whose `look`-th look-up the other thread begins, and ends if it may."""

        __slots__ = ("looks",)

        def __hash__(self) -> int:
            self.looks = getattr(self, "looks", 0) + 1
            if self.looks == look:
                other.start()
                other.join(0.1)
            return super().__hash__()

        __eq__ = str.__eq__

    recent.add("key", 1)
    assert recent.get(Interrupted("key")) == 1
    other.join()
    assert (recent.get("key"), recent.get("another")) == (None, 2)
