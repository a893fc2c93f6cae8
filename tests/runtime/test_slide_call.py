"""The rules of a slide's call as a decision table, and what holds for every slide whatever its tiles."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gramserve.calls import Call, Outcome, Quantity, ReviewReason, UnassessableReason
from gramserve.images.tiles import Box
from gramserve.runtime.aggregate import aggregate
from gramserve.runtime.conditions import Conditions
from gramserve.runtime.preprocess import Place
from gramserve.runtime.quantity import above_chance, quantity_of
from gramserve.samples import LABEL_ROLES, LABELS
from gramserve.store.manifest import Aggregation, Familiarity, Label, QuantityBands

DOCS = Path(__file__).parents[2] / "docs/slide_call.md"
ROLES = tuple(Label(name=name, **role) for name, role in LABEL_ROLES.items())
RULES = Aggregation(
    tile_probability=0.6,
    min_tiles=2,
    top_k=2,
    review_probability=0.8,
    max_evidence=3,
    tile_false_alarm=0.01,
    min_assessed_tiles=4,
    max_unfit=0.5,
    review_mixed=True,
    mixed_usual_in=("sputum",),
    familiarity=Familiarity(max_energy=0.0, max_strange=0.2),
    quantity=QuantityBands(few=0.05, moderate=0.25, many=0.75, min_tiles=8),
)
# What a letter of a slide stands for: the tile's probabilities, and what speaks against it.
TILES = {
    ".": {},  # empty
    "n": {"GNR": 0.97},
    "p": {"GPR": 0.97},
    "c": {"GPC_CLUSTERS": 0.97},
    "s": {"GPC_PAIRS_CHAINS": 0.97},
    "w": {"GNR": 0.7},  # weak
    "N": {"GNR": 0.97},  # the same out of focus
    "u": {},  # out of focus, empty
    "b": {},  # blank
    "M": {"GNR": 0.97},  # clear, at the wrong magnification
    "?": {},  # unlike all that the model knows
}


def call(slide: str, rules: Aggregation = RULES, *, specimen: str = "") -> Call:
    """The call of a slide with a tile for each letter."""
    chance = [[1 - sum(TILES[t].values()), *(TILES[t].get(label, 0.0) for label in LABELS[1:])] for t in slide]
    places = [Place(0, Box(10 * number, 0, 10, 10)) for number in range(len(slide))]
    conditions = Conditions(
        blank=np.array([t == "b" for t in slide], bool),
        unfocused=np.array([t in "uN" for t in slide], bool),
        misscaled=np.array([t == "M" for t in slide], bool),
        strange=np.array([t == "?" for t in slide], bool),
    )
    return aggregate(np.array(chance).reshape(-1, 5), places, ROLES, rules.for_specimen(specimen), conditions)


UNFIT = "uNbM"
SEEN, MIXED, EMPTY = Outcome.ORGANISMS_SEEN, Outcome.MIXED_ORGANISMS_SEEN, Outcome.NO_ORGANISM_SEEN
REVIEW, WHY = ReviewReason, UnassessableReason


@pytest.mark.parametrize(
    ("slide", "outcome", "found", "reasons"),
    [
        ("........", EMPTY, "", ()),
        ("nn......", SEEN, "GNR", ()),
        ("n.......", EMPTY, "", (REVIEW.LOW_CONFIDENCE,)),
        ("ww......", SEEN, "GNR", (REVIEW.LOW_CONFIDENCE,)),
        ("nncc....", MIXED, "GNR GPC_CLUSTERS", (REVIEW.MIXED_GROWTH,)),
        ("nnnc....", SEEN, "GNR", (REVIEW.LOW_CONFIDENCE,)),
        ("nnpp....", SEEN, "GNR GPR", (REVIEW.CONFLICTING_FINDINGS,)),
        ("ccss....", SEEN, "GPC_CLUSTERS GPC_PAIRS_CHAINS", (REVIEW.CONFLICTING_FINDINGS,)),
        ("ccs.....", SEEN, "GPC_CLUSTERS", ()),
        ("ccssnn..", MIXED, "GNR GPC_CLUSTERS GPC_PAIRS_CHAINS", (REVIEW.CONFLICTING_FINDINGS, REVIEW.MIXED_GROWTH)),
        ("......??", EMPTY, "", (REVIEW.OUT_OF_DISTRIBUTION,)),
        (".......?", EMPTY, "", ()),
        ("nn....??", SEEN, "GNR", (REVIEW.OUT_OF_DISTRIBUTION,)),
        ("nnuuuuuu", SEEN, "GNR", (REVIEW.PARTLY_ASSESSABLE,)),
        ("nnbbbbbb", SEEN, "GNR", (REVIEW.PARTLY_ASSESSABLE,)),
        ("....bbbb", EMPTY, "", ()),
        ("....uuuu", EMPTY, "", ()),
        ("nn", SEEN, "GNR", (REVIEW.PARTLY_ASSESSABLE,)),
        ("n", SEEN, "GNR", (REVIEW.PARTLY_ASSESSABLE,)),
    ],
)
def test_a_slide_that_can_be_assessed_is_called(slide, outcome, found, reasons):
    seen = call(slide)
    assert seen.outcome is outcome
    assert sorted(finding.label for finding in seen.findings) == found.split()
    assert seen.review_reasons == reasons
    assert seen.unassessable_reason is None


@pytest.mark.parametrize(
    ("slide", "why", "reasons"),
    [
        ("", WHY.TOO_FEW_TILES, (REVIEW.UNASSESSABLE,)),
        ("...", WHY.TOO_FEW_TILES, (REVIEW.UNASSESSABLE,)),
        ("u", WHY.TOO_FEW_TILES, (REVIEW.UNASSESSABLE,)),
        ("bbbb", WHY.BLANK, (REVIEW.UNASSESSABLE,)),
        ("uuuu", WHY.OUT_OF_FOCUS, (REVIEW.UNASSESSABLE,)),
        ("..uubb", WHY.OUT_OF_FOCUS, (REVIEW.UNASSESSABLE,)),
        ("..ubbb", WHY.BLANK, (REVIEW.UNASSESSABLE,)),
        ("....uuuuu", WHY.OUT_OF_FOCUS, (REVIEW.UNASSESSABLE,)),
        ("....uuuuubbbbbbbb", WHY.OUT_OF_FOCUS, (REVIEW.UNASSESSABLE,)),
        ("MMMM", WHY.WRONG_MAGNIFICATION, (REVIEW.UNASSESSABLE,)),
        ("....MMMMMu", WHY.WRONG_MAGNIFICATION, (REVIEW.UNASSESSABLE,)),
        ("MMMbbb", WHY.WRONG_MAGNIFICATION, (REVIEW.UNASSESSABLE,)),
        ("NNNN", WHY.OUT_OF_FOCUS, (REVIEW.UNASSESSABLE,)),
        ("nuuu", WHY.OUT_OF_FOCUS, (REVIEW.LOW_CONFIDENCE, REVIEW.UNASSESSABLE)),
        ("n..", WHY.TOO_FEW_TILES, (REVIEW.LOW_CONFIDENCE, REVIEW.UNASSESSABLE)),
    ],
)
def test_too_little_to_read_is_unassessable_for_a_typed_reason_and_always_goes_to_a_person(slide, why, reasons):
    seen = call(slide)
    assert (seen.outcome, seen.unassessable_reason) == (Outcome.UNASSESSABLE, why)
    assert seen.review_reasons == reasons
    assert not seen.findings


def test_a_clear_tile_on_an_unassessable_slide_is_shown_to_the_person_and_not_reported():
    (suspected,) = call("nuuu").suspected
    assert (suspected.label, suspected.tile_count, suspected.evidence[0].x) == ("GNR", 1, 0)


def test_a_tile_out_of_focus_is_no_evidence():
    assert call("nNNN....").outcome is EMPTY
    assert call("nn.NN...").findings[0].tile_count == 2


def test_a_slide_that_lost_its_tiles_to_blur_does_not_get_by_with_less_evidence():
    assert call("n").findings
    assert not call("nuuuuuuu").findings


def test_at_the_wrong_magnification_nothing_is_believed():
    assert call("MMMMMMMM").suspected == ()
    assert call("nMMMMMMM").findings == ()


def test_mixed_growth_is_no_reason_for_review_where_it_is_usual():
    seen = call("nncc....", specimen="sputum")
    assert seen.outcome is MIXED
    assert not seen.review_required


def test_counts_say_what_was_read_and_what_was_left_out():
    seen = call("nn..uubM")
    assert (seen.tile_count, seen.assessed_tiles) == (8, 4)
    assert (seen.unfocused_tiles, seen.blank_tiles, seen.misscaled_tiles) == (2, 1, 1)


def test_a_finding_says_what_it_is_in_words_of_the_field():
    finding = call("cccc....").findings[0]
    assert (finding.gram, finding.morphology, finding.arrangement) == ("positive", "cocci", "clusters")


@pytest.mark.parametrize(
    ("seen", "assessed", "quantity"),
    [
        (0, 100, Quantity.NONE),
        (4, 100, Quantity.RARE),
        (5, 100, Quantity.FEW),
        (24, 100, Quantity.FEW),
        (25, 100, Quantity.MODERATE),
        (75, 100, Quantity.MANY),
        (7, 7, None),
    ],
)
def test_the_quantity_is_the_band_of_the_share_of_tiles_where_there_are_enough(seen, assessed, quantity):
    assert quantity_of(seen, assessed, RULES.quantity) is quantity
    assert quantity_of(seen, assessed, None) is None


def test_larger_slides_need_more_tiles_for_a_finding_because_false_alarms_add_up():
    assert [above_chance(tiles, 0.005, 0.01) for tiles in (1, 10, 100, 1000, 10_000)] == [1, 2, 4, 12, 68]
    assert above_chance(100_000, 0.0, 0.01) == 1
    assert len(call("nnn" + "." * 97).findings) == 0
    assert len(call("nnnnn" + "." * 95).findings) == 1


def test_the_table_of_evidence_in_the_docs_is_that_of_the_code():
    rows = re.findall(r"^\| ([\d,]+) \| (\d+) \| (\d+) \| (\d+) \|$", DOCS.read_text(), re.MULTILINE)
    assert len(rows) == 5
    for tiles, *needed in rows:
        computed = [max(2, above_chance(int(tiles.replace(",", "")), rate, 0.01)) for rate in (0.001, 0.005, 0.02)]
        assert [int(n) for n in needed] == computed


def test_the_docs_name_every_outcome_reason_and_quantity():
    text = DOCS.read_text()
    names = (*Outcome, *ReviewReason, *UnassessableReason, *Quantity)
    assert [name for name in names if f"`{name}`" not in text] == []


def test_bands_that_do_not_ascend_are_refused():
    with pytest.raises(ValueError, match="ascend"):
        QuantityBands(few=0.5, moderate=0.25, many=0.75, min_tiles=8)


slides = st.text(alphabet=sorted(TILES), max_size=24)


@given(slides, st.randoms(use_true_random=False))
def test_the_order_of_tiles_never_changes_a_call(slide, random):
    order = list(range(len(slide)))
    random.shuffle(order)
    assert _anywhere(call(slide)) == _anywhere(call("".join(slide[i] for i in order)))


def _anywhere(seen: Call) -> dict[str, object]:
    """A call without the places of its evidence, which lie elsewhere when tiles change places."""
    data = seen.to_json()
    for finding in [*data["findings"], *data.get("suspected", ())]:
        finding["evidence"] = [tile["probability"] for tile in finding["evidence"]]
    return data


RANKS = [None, Quantity.RARE, Quantity.FEW, Quantity.MODERATE, Quantity.MANY]


@given(slides, st.sampled_from("npcs"))
def test_one_more_tile_that_shows_a_class_never_takes_the_finding_away_nor_makes_it_less(slide, letter):
    label = next(iter(TILES[letter]))
    before = {finding.label: finding for finding in call(slide).findings}
    after = {finding.label: finding for finding in call(slide + letter).findings}
    if label in before:
        assert RANKS.index(after[label].quantity) >= RANKS.index(before[label].quantity)
        assert after[label].tile_count == before[label].tile_count + 1


@given(slides, st.integers(0, 23))
def test_a_clearer_tile_never_lowers_the_probability_of_a_finding(slide, place):
    weak = slide[:place] + "w" + slide[place + 1 :]
    clear = slide[:place] + "n" + slide[place + 1 :]
    before, after = ({f.label: f.probability for f in call(tiles).findings} for tiles in (weak, clear))
    if "GNR" in before:
        assert after["GNR"] >= before["GNR"]


@given(slides)
def test_no_slide_is_ever_called_from_too_little(slide):
    seen = call(slide)
    fit = [t for t in slide if t not in UNFIT]
    assert seen.assessed_tiles == len(fit)
    if seen.outcome is EMPTY:
        assert len(fit) >= RULES.min_assessed_tiles
        assert sum(t in "uNM" for t in slide) <= RULES.max_unfit * (len(slide) - slide.count("b"))
    for finding in seen.findings:
        shown = sum(finding.label in TILES[t] for t in fit)
        assert finding.tile_count == shown >= min(RULES.min_tiles, len(slide))
    if not fit:
        assert seen.outcome is Outcome.UNASSESSABLE


@given(slides)
def test_no_organism_is_ever_dropped_in_silence(slide):
    """Whatever shows on a tile that is fit to read is a finding, or a person looks, or a finding has the same look."""
    seen = call(slide)
    looks = {(f.gram, f.morphology) for f in seen.findings}
    for tile in slide:
        for label in TILES[tile] if tile not in UNFIT else ():
            role = LABEL_ROLES[label]
            assert seen.review_required or (role["gram"], role["morphology"]) in looks


@given(st.integers(1, 5000), st.floats(1e-5, 0.2), st.sampled_from([0.001, 0.01, 0.05]))
def test_one_more_tile_never_asks_for_more_than_one_more_tile_of_evidence(tiles, rate, risk):
    assert above_chance(tiles, rate, risk) <= above_chance(tiles + 1, rate, risk) <= above_chance(tiles, rate, risk) + 1


@given(slides)
def test_every_call_survives_json(slide):
    assert Call.from_json(call(slide).to_json()) == call(slide)
