from __future__ import annotations

from pathlib import Path

import pytest

from gramserve.errors import InvalidInput, Reason
from optimizer_svc.labels import format_labels, parse_labels, read_labels

GOOD = """
labels:
  - {name: BACKGROUND, kind: background}
  - {name: GNR, kind: organism, gram: negative, morphology: bacilli}
  - {name: GPC_CLUSTERS, kind: organism, gram: positive, morphology: cocci, arrangement: clusters}
"""


def test_labels_keep_their_order_and_roles() -> None:
    labels = parse_labels(GOOD)
    assert [label.name for label in labels] == ["BACKGROUND", "GNR", "GPC_CLUSTERS"]
    assert labels[0].kind == "background"
    assert (labels[2].gram, labels[2].morphology, labels[2].arrangement) == ("positive", "cocci", "clusters")


def test_written_labels_are_read_back_the_same(tmp_path: Path) -> None:
    file = tmp_path / "labels.yaml"
    file.write_text(format_labels(parse_labels(GOOD)))
    assert read_labels(file) == parse_labels(GOOD)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "one key"),
        ("- a\n- b", "one key"),
        ("labels: {a: 1}", "one key"),
        ("labels: [{name: A, kind: organism}]\nextra: 1", "one key"),
        ("labels: [", "not YAML"),
        ("labels: [{name: !!int ''}]", "not YAML"),
        ("labels: [!!bool maybe]", "not YAML"),
        ("labels: [!!timestamp soon]", "not YAML"),
        ("labels: !!python/object/apply:os.system ['true']", "not YAML"),
        ("labels: [{name: A, kind: organism}]", "2 to 1000"),
        ("labels: [{name: A, kind: organism}, B]", "labels[1]"),
        ("labels: [{name: A, kind: organism}, {name: B, kind: fungus}]", "labels[1].kind"),
        ("labels: [{name: A, kind: organism}, {name: B, kind: organism, gram: purple}]", "labels[1].gram"),
        ("labels: [{name: A, kind: organism}, {name: B}]", "labels[1].kind"),
        ("labels: [{name: A, kind: organism}, {name: B, kind: organism, colour: pink}]", "labels[1].colour"),
        ("labels: [{name: A, kind: organism}, {name: A, kind: background}]", "used twice"),
        ("labels: [{name: A, kind: background}, {name: B, kind: background}]", "at most one"),
        ("labels: [{name: A, kind: background, gram: positive}, {name: B, kind: organism}]", "labels[0]"),
    ],
)
def test_a_wrong_labels_file_says_what_is_wrong(text: str, says: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_labels(text)
    assert caught.value.reason == Reason.INVALID_LABELS
    assert says in caught.value.message


def test_every_fault_of_a_labels_file_is_named() -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_labels("labels: [{name: A}, {name: B, kind: fungus}]")
    assert {field for field, _ in caught.value.violations} == {"labels[0].kind", "labels[1].kind"}


def test_a_labels_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidInput) as caught:
        read_labels(tmp_path / "labels.yaml")
    assert caught.value.reason == Reason.INVALID_LABELS
