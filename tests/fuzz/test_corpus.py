"""Every input that once was interesting, or was a finding, is harmless."""

from __future__ import annotations

import pytest

from tests.fuzz.catalogue import CORPUS, TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_and_corpus_end_well_or_with_a_typed_error(name: str) -> None:
    target = TARGETS[name]
    inputs = [*target.seeds(), *(path.read_bytes() for path in sorted((CORPUS / name).glob("*")))]
    assert inputs
    with target.opened() as run:
        run(b"")
        for data in inputs:
            run(data)


def test_the_corpus_stays_small_and_belongs_to_targets() -> None:
    files = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert {path.parent.name for path in files} <= set(TARGETS)
    assert sum(path.stat().st_size for path in files) < 300_000
