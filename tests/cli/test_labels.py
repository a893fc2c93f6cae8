"""Labels files as the command line reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from gramserve.cli.labels import read_labels
from gramserve.errors import InvalidInput, Reason
from gramserve.samples import write_labels_yaml
from gramserve.v1.model_pb2 import Label


def test_roles_arrive_in_the_contract(tmp_path: Path) -> None:
    write_labels_yaml(tmp_path / "labels.yaml")
    labels = read_labels(tmp_path / "labels.yaml")
    assert [label.name for label in labels] == ["BACKGROUND", "GNR", "GPC_CLUSTERS", "GPC_PAIRS_CHAINS", "GPR"]
    assert labels[0] == Label(name="BACKGROUND", kind=Label.KIND_BACKGROUND)
    assert labels[2] == Label(
        name="GPC_CLUSTERS",
        kind=Label.KIND_ORGANISM,
        gram=Label.GRAM_POSITIVE,
        morphology="cocci",
        arrangement="clusters",
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "labels",
        "labels: 7",
        "labels: [{name: A, kind: fungus}]",
        "labels: [{kind: organism}]",
        "{",
        "\x00",
        "labels: [{name: !!int x}]",
        3000 * "[",
    ],
)
def test_other_files_are_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "labels.yaml").write_text(text)
    with pytest.raises(InvalidInput) as caught:
        read_labels(tmp_path / "labels.yaml")
    assert caught.value.reason is Reason.INVALID_LABELS
    assert "labels.yaml" in caught.value.message
