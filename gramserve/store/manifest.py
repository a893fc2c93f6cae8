"""The manifest of an artifact: everything a worker needs to know to run it, plus where it came from."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from gramserve.errors import ArtifactInvalid, Reason

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Probability = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Pixels = Annotated[int, Field(ge=1, le=1 << 20)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ArtifactFile(_Part):
    """One file of the artifact: digest and size in bytes."""

    sha256: Sha256
    bytes: int = Field(ge=0)


class Source(_Part):
    """The checkpoint that the artifact was made from: digest, timm architecture, parameters and MACs of one tile."""

    checkpoint_sha256: Sha256
    architecture: str = Field(min_length=1)
    parameters: int = Field(ge=0)
    macs: int = Field(ge=0)


class Label(_Part):
    """One output of the model and its clinical role; background labels have no role beyond that."""

    name: str = Field(min_length=1, max_length=63)
    kind: Literal["background", "organism"]
    gram: Literal["positive", "negative"] | None = None
    morphology: str | None = None
    arrangement: str | None = None

    @model_validator(mode="after")
    def _background_has_no_role(self) -> Label:
        if self.kind == "background" and (self.gram or self.morphology or self.arrangement):
            raise ValueError("a background label has no gram, morphology or arrangement")
        return self


class Preprocessing(_Part):
    """How a field becomes model input: uint8 [N, input_px, input_px, 3] RGB; normalisation is inside the model.

    `tile_px`: edge of a square tile in pixels of the field. "single": the field is one tile. "grid": tiles cover the
    field, unless both its sides are at most `max_single_px`, which makes it one tile. Fields with a side under `min_px`
    are refused. "area" is OpenCV's INTER_AREA, INTER_LINEAR where it enlarges. A JPEG field is decoded at
    1/`decode_reduction` of its size, the pixels above are those of the full size. `mpp`: microns per pixel of the
    fields that the model was made for; a tile of a whole slide covers `tile_px` of such pixels, and without it, or
    where the slide does not state its own, `tile_px` pixels of level 0.
    """

    input_px: Pixels
    tiling: Literal["single", "grid"]
    tile_px: Pixels
    max_single_px: int = Field(ge=0)
    min_px: Pixels
    resize: Literal["area"] = "area"
    color: Literal["RGB"] = "RGB"
    crop: Literal["center"] = "center"
    decode_reduction: Literal[1, 2, 4, 8] = 1
    mpp: float | None = Field(default=None, gt=0.0, allow_inf_nan=False)


class Calibration(_Part):
    """Logits are divided by `temperature` before the softmax."""

    temperature: float = Field(gt=0.0, allow_inf_nan=False)


class TileQuality(_Part):
    """Which tiles are fit to read, by the measures of `gramserve.runtime.quality` on the model's input.

    A tile is blank when its contrast and its saturation are both below theirs, else out of focus when its contrast is,
    or when its sharpness over its contrast to the `focus_exponent` is below `min_focus`.
    """

    focus_exponent: float = Field(ge=0.0, allow_inf_nan=False)
    min_focus: float = Field(ge=0.0, allow_inf_nan=False)
    min_contrast: float = Field(ge=0.0, allow_inf_nan=False)
    min_saturation: float = Field(ge=0.0, allow_inf_nan=False)


class Look(_Part):
    """What tiles look like, whatever is on them: see `gramserve.runtime.look`.

    The distance of a tile is the length of (its look - `centre`) times the matrix `whitening`.
    """

    centre: Annotated[tuple[Finite, ...], Field(min_length=5, max_length=5)]
    whitening: Annotated[
        tuple[Annotated[tuple[Finite, ...], Field(min_length=5, max_length=5)], ...], Field(min_length=5, max_length=5)
    ]
    max_distance: float = Field(ge=0.0, allow_inf_nan=False)


class Familiarity(_Part):
    """Which slides are unlike those that the model was made with.

    A tile is strange when the energy of its logits, -log sum exp (Liu et al. 2020), is above `max_energy`, or when its
    look is further than `look.max_distance` from that of the training tiles; a slide is out of distribution when more
    than `max_strange` of its assessed tiles are strange.
    """

    max_energy: float = Field(allow_inf_nan=False)
    max_strange: Probability
    look: Look | None = None


class QuantityBands(_Part):
    """The quantity of a finding by the share of assessed tiles that show it: the share from which each band begins.

    Below `few` it is RARE. With fewer than `min_tiles` assessed tiles none is told. See docs/slide_call.md.
    """

    few: Probability
    moderate: Probability
    many: Probability
    min_tiles: int = Field(ge=1)

    @model_validator(mode="after")
    def _bands_ascend(self) -> QuantityBands:
        if not 0.0 < self.few < self.moderate < self.many:
            raise ValueError("few, moderate and many must ascend")
        return self


class Aggregation(_Part):
    """How the tiles of a slide become its call; the rules in full stand in docs/slide_call.md.

    A label is seen on a tile at `tile_probability` or more and is a finding when `min_tiles` tiles show it; the mean of
    its best `top_k` tiles is its probability on the slide; below `review_probability`, or that of the slide's specimen
    type in `review_by_specimen`, a person looks; at most `max_evidence` tiles of a finding are reported. Defaults are
    the rules of manifests that do not name them.

    tile_false_alarm: share of tiles without an organism on which it is seen; a finding needs more tiles than such false
    alarms give on all but `slide_false_alarm` of slides. min_assessed_tiles: fewer tiles fit to read make no call that
    nothing is there, nor do they when more than `max_unfit` of those that are not blank are out of focus or at the
    wrong magnification. max_scale: how many times as large or as small as the model's own the tiles of a slide may be.
    review_mixed: mixed growth is reviewed, but for specimen types in `mixed_usual_in`.
    """

    tile_probability: Probability
    min_tiles: int = Field(ge=1)
    top_k: int = Field(ge=1)
    review_probability: Probability
    max_evidence: int = Field(ge=0)
    review_by_specimen: dict[str, Probability] = Field(default_factory=dict)
    tile_false_alarm: Probability = 0.0
    slide_false_alarm: Probability = 0.01
    min_assessed_tiles: int = Field(default=1, ge=1)
    max_unfit: Probability = 1.0
    max_scale: float | None = Field(default=None, ge=1.0, allow_inf_nan=False)
    review_mixed: bool = False
    mixed_usual_in: tuple[str, ...] = ()
    quality: TileQuality | None = None
    familiarity: Familiarity | None = None
    quantity: QuantityBands | None = None

    @property
    def looks_at_tiles(self) -> bool:
        """True when a rule needs the measures of `gramserve.runtime.quality`."""
        return self.quality is not None or (self.familiarity is not None and self.familiarity.look is not None)

    def for_specimen(self, specimen_type: str) -> Aggregation:
        """The rules for a slide of this specimen type ("" where it is not known)."""
        threshold = self.review_by_specimen.get(specimen_type, self.review_probability)
        mixed = self.review_mixed and specimen_type not in self.mixed_usual_in
        if (threshold, mixed) == (self.review_probability, self.review_mixed):
            return self
        return self.model_copy(update={"review_probability": threshold, "review_mixed": mixed})


class EngineSettings(_Part):
    """The engine that was measured best, its threads and settings, and how many tiles it is given at once."""

    name: str = Field(min_length=1)
    threads: int = Field(default=1, ge=1)
    settings: dict[str, Any] = Field(default_factory=dict)
    batch_tiles: int = Field(default=1, ge=1)


class Material(_Part):
    """Something that an artifact was made from: what it is, and its SHA-256 or fingerprint."""

    name: str
    digest: dict[str, str]


class Provenance(_Part):
    """How an artifact came to be, in the words of SLSA.

    builder: what made it, and its version; invocation: the resource name of the optimization; requested_by: the
    principal that asked for it, "" where nobody was told apart; parameters: what was asked of it; materials: what went
    in; times are when the work began and ended.
    """

    builder: str
    builder_version: str
    invocation: str
    requested_by: str = ""
    parameters: dict[str, Any] = Field(default_factory=dict)
    materials: tuple[Material, ...] = ()
    started_on: AwareDatetime
    finished_on: AwareDatetime


class ArtifactDraft(_Part):
    """What the optimizer says about an artifact to publish; `labels` are in the order of the model's output.

    provenance: who asked for it, what went in and when;
    alternatives: other engines on which the golden vectors hold, best first, for where `engine` is not installed;
    widths: channels left after pruning; recipe: how it was quantized; split: fingerprints of the data splits; packages:
    name to version; cpu: what it was measured on; evaluation: figures of the report.
    """

    format: Literal[1] = 1
    created: AwareDatetime
    source: Source
    labels: tuple[Label, ...] = Field(min_length=1)
    preprocessing: Preprocessing
    calibration: Calibration
    aggregation: Aggregation
    engine: EngineSettings
    alternatives: tuple[EngineSettings, ...] = ()
    provenance: Provenance | None = None
    widths: dict[str, Any] = Field(default_factory=dict)
    recipe: dict[str, Any] = Field(default_factory=dict)
    split: dict[str, Any] = Field(default_factory=dict)
    packages: dict[str, str] = Field(default_factory=dict)
    cpu: dict[str, Any] = Field(default_factory=dict)
    evaluation: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _labels_are_distinct(self) -> ArtifactDraft:
        if len({label.name for label in self.labels}) != len(self.labels):
            raise ValueError("label names must be distinct")
        return self


class ArtifactManifest(ArtifactDraft):
    """The manifest.json of a published version; its SHA-256 is the digest of the artifact."""

    model: str
    version: int = Field(ge=1)
    files: dict[str, ArtifactFile]

    def to_json(self) -> bytes:
        """The bytes of manifest.json: sorted keys, indented for people."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, indent=1, allow_nan=False)
        return text.encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> ArtifactManifest:
        """Reads manifest.json; raises ArtifactInvalid, naming the first field that is wrong.

        ARTIFACT_CORRUPT, or MODEL_UNAVAILABLE when it is of a format that this release does not read.
        """
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            faults = error.errors(include_url=False)
            if [fault for fault in faults if fault["loc"] == ("format",) and isinstance(fault["input"], int)]:
                raise ArtifactInvalid(
                    Reason.MODEL_UNAVAILABLE,
                    "The artifact was made by another release of gramserve, for workers of that release.",
                    metadata={"file": "manifest.json", "field": "format"},
                ) from None
            where = ".".join(str(step) for step in faults[0]["loc"]) or "manifest.json"
            raise ArtifactInvalid(
                Reason.ARTIFACT_CORRUPT,
                f"manifest.json cannot be read: {where} is wrong.",
                metadata={"file": "manifest.json", "field": where},
            ) from None


def manifest_digest(data: bytes) -> str:
    """The digest of an artifact: SHA-256 of the bytes of its manifest.json, in hex."""
    return hashlib.sha256(data).hexdigest()
