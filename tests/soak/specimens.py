"""The slides of a soak: what each is made of, and how it may end."""

from __future__ import annotations

import random
from dataclasses import dataclass

from gramserve.samples import LABELS
from gramserve.v1.slide_pb2 import Slide
from tests.artifacts import coloured_file
from tests.images.files import png_bomb

GOOD_SIZES = (64, 72, 80, 96)
EXTENSIONS = ("png", "jpg", "tif")
POISON = {"segfault": "WORKER_CRASHED", "abort": "WORKER_CRASHED", "exit": "WORKER_CRASHED", "hang": "SLIDE_TIMEOUT"}


@dataclass(frozen=True, slots=True)
class Specimen:
    """One image; `label` is its call, "" where it has none; `behaviour` is a word of `behaviour.act`.

    A slide of it that ends as FAILED must have one of `reasons`.
    """

    name: str
    data: bytes
    label: str = ""
    behaviour: str = ""
    reasons: frozenset[str] = frozenset()

    @property
    def good(self) -> bool:
        """True when it must be called, whatever happens around it."""
        return bool(self.label)


def specimens() -> list[Specimen]:
    """All of them, each of other bytes."""
    good = [
        Specimen(f"{label}-{size}-{extension}", coloured_file(label, size, size, extension), label)
        for label in LABELS
        for size in GOOD_SIZES
        for extension in EXTENSIONS
    ]
    slow = [Specimen("slow", coloured_file("GPR", 104, 64), "GPR", "slow")]
    png = coloured_file("GNR", 120, 120)
    bad = [
        Specimen("no picture", b"not a picture" * 10, reasons=frozenset({"UNSUPPORTED_FORMAT"})),
        Specimen("half a png", png[: len(png) // 2], reasons=frozenset({"CORRUPT_IMAGE"})),
        Specimen("half a jpeg", coloured_file("GNR", 512, 512, "jpg")[:400], reasons=frozenset({"CORRUPT_IMAGE"})),
        Specimen("bomb", png_bomb(), reasons=frozenset({"IMAGE_TOO_LARGE"})),
        Specimen("too small", coloured_file("GNR", 8, 8), reasons=frozenset({"IMAGE_TOO_SMALL"})),
    ]
    poison = [
        Specimen(word, coloured_file("GNR", 128 + 8 * n, 64), behaviour=word, reasons=frozenset({reason}))
        for n, (word, reason) in enumerate(POISON.items())
    ]
    return good + slow + bad + poison


def draw(dice: random.Random, known: list[Specimen], size: int) -> list[Specimen]:
    """The slides of one batch: most are good, one in twenty is broken, at most one of a batch is poison."""
    good = [one for one in known if one.good and not one.behaviour]
    slow = [one for one in known if one.good and one.behaviour]
    bad = [one for one in known if not one.good and not one.behaviour]
    poison = [one for one in known if not one.good and one.behaviour]
    slides = [dice.choice(bad) if dice.random() < 0.05 else dice.choice(good) for _ in range(size)]
    if slow and dice.random() < 0.25:
        slides[dice.randrange(size)] = dice.choice(slow)
    if poison and dice.random() < 0.3:
        slides[dice.randrange(size)] = dice.choice(poison)
    return slides


def fault(specimen: Specimen, slide: Slide, reason: str, *, stopped: bool) -> str:
    """What is wrong with how a slide ended, "" when nothing is.

    Three crashes give a slide up. Processes are killed at random here, so that can hit a good slide, too; the caller
    counts those.
    """
    match slide.state:
        case Slide.STATE_SUCCEEDED:
            found = [finding.label for finding in slide.call.findings]
            right = found == ([] if specimen.label == "BACKGROUND" else [specimen.label])
            return "" if specimen.good and right else f"{specimen.name} was called {found}"
        case Slide.STATE_FAILED:
            allowed = specimen.reasons | {"WORKER_CRASHED"}
            return "" if reason in allowed else f"{specimen.name} failed with {reason}"
        case Slide.STATE_CANCELLED | Slide.STATE_EXPIRED:
            return "" if stopped else f"{specimen.name} was stopped, and nobody had asked to"
        case _:
            return f"{specimen.name} is {Slide.State.Name(slide.state)} in an ended batch"
