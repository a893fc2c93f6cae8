"""The door and the gateway read the same laboratory in a name, whatever the name."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from gateway.names import parse_batch, parse_laboratory
from gramserve.access.rules import laboratory_in
from gramserve.errors import InvalidInput

PARTS = st.sampled_from(
    ["laboratories", "slideBatches", "north", "south", "b-0001", "", "-", ".", "..", "*", "%2f", "\n", " "]
)
NAMES = st.one_of(st.text(max_size=80), st.lists(PARTS, max_size=7).map("/".join))


@given(NAMES)
@example("laboratories/north")
@example("laboratories/north/slideBatches/b-0001")
@example("laboratories/north/../south")
@example("/laboratories/north")
@example("laboratories//north")
@example("laboratories/north\n")
def test_a_name_that_the_gateway_takes_is_of_the_laboratory_that_the_door_checked(name: str) -> None:
    for parse in (parse_laboratory, lambda given: parse_batch(given).laboratory):
        try:
            laboratory = parse(name)
        except InvalidInput:
            continue
        assert laboratory_in(name) == laboratory


def test_what_names_no_laboratory_is_nobodys() -> None:
    for name in ("", "north", "/laboratories/north", "Laboratories/north", "laboratories", "laboratories/"):
        assert laboratory_in(name) == ""
