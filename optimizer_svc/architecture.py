"""timm architectures: which exist, how they are built, what input they want."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

import timm
from torch import nn

from gramserve.errors import InvalidInput, Reason


@dataclass(frozen=True, slots=True)
class InputSpec:
    """What the model wants to see: square RGB of `px`, scaled to 0..1, minus `mean`, divided by `std`."""

    px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def check_architecture(architecture: str) -> None:
    """InvalidInput UNKNOWN_ARCHITECTURE, with close names, unless timm can build `architecture` without a download."""
    name = architecture.split(".", 1)[0]
    # Names such as hf-hub:x or local-dir:x make timm read from elsewhere: only registered architectures are allowed.
    if not name.replace("_", "").isalnum() or not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"; close names: {', '.join(close)}" if close else ""
        raise InvalidInput(
            Reason.UNKNOWN_ARCHITECTURE,
            f"timm {timm.__version__} has no such architecture{hint}",
            metadata={"close": ",".join(close)},
        )


def build_model(architecture: str, classes: int, input_px: int) -> nn.Module:
    """The timm architecture with random weights and `classes` outputs; `architecture` was checked before."""
    name = architecture.split(".", 1)[0]
    options: dict[str, Any] = {}
    config = timm.get_pretrained_cfg(name)
    if config is not None and config.fixed_input_size:
        options["img_size"] = input_px
    try:
        model: nn.Module = timm.create_model(name, pretrained=False, num_classes=classes, **options)
    except (TypeError, ValueError, AssertionError, RuntimeError):
        raise InvalidInput(
            Reason.INVALID_FIELD, f"the architecture cannot be built for an input of {input_px} px"
        ) from None
    return model


def default_input(architecture: str) -> InputSpec:
    """What timm says that the pretrained weights of `architecture` want."""
    config = timm.get_pretrained_cfg(architecture.split(".", 1)[0])
    if config is None:
        return InputSpec(224, timm.data.IMAGENET_DEFAULT_MEAN, timm.data.IMAGENET_DEFAULT_STD)
    return InputSpec(int(config.input_size[1]), triple(config.mean), triple(config.std))


def classifier_names(model: nn.Module) -> tuple[str, ...]:
    """The names of the modules that give the outputs, as timm declares them."""
    names = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def triple(values: Any) -> tuple[float, float, float]:
    """Three numbers from anything that holds three; InvalidInput CHECKPOINT_UNREADABLE."""
    try:
        first, second, third = (float(v) for v in values)
    except (TypeError, ValueError):
        raise InvalidInput(
            Reason.CHECKPOINT_UNREADABLE, "the checkpoint has a mean or std that is not three numbers"
        ) from None
    return first, second, third
