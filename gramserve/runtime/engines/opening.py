"""The engines by their names: which there are, which are installed, and how one is opened."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Final

from gramserve.errors import ArtifactInvalid, Reason
from gramserve.runtime.engines.engine import Engine
from gramserve.runtime.self_contained import check_self_contained
from gramserve.store.manifest import EngineSettings

# An engine is called by the package that it needs, and loaded when it is opened.
ENGINES: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "onnxruntime": ("gramserve.runtime.engines.onnxruntime_engine", "OnnxRuntimeEngine"),
        "openvino": ("gramserve.runtime.engines.openvino_engine", "OpenVinoEngine"),
    }
)


def installed_engines() -> tuple[str, ...]:
    """The names of the engines whose package is installed here; nothing is loaded to find out."""
    return tuple(name for name in ENGINES if importlib.util.find_spec(name) is not None)


def first_installed(choices: Iterable[EngineSettings]) -> EngineSettings:
    """The first of `choices`, best first, whose engine is installed; ArtifactInvalid MODEL_UNAVAILABLE when none is."""
    wanted = list(choices)
    installed = installed_engines()
    for settings in wanted:
        if settings.name in installed:
            return settings
    raise _unavailable(" or ".join(settings.name for settings in wanted))


def open_engine(model: bytes, settings: EngineSettings) -> Engine:
    """The engine that `settings` name, with `model` (the bytes of model.onnx) loaded.

    Raises ArtifactInvalid: MODEL_UNAVAILABLE when the engine is not installed or does not start, ARTIFACT_CORRUPT when
    it cannot load the model or that has data in other files. MemoryError passes through: the model may be sound.
    """
    check_self_contained(model)
    first_installed([settings])
    module, name = ENGINES[settings.name]
    try:
        factory: Callable[[bytes, EngineSettings], Engine] = getattr(importlib.import_module(module), name)
        return factory(model, settings)
    except MemoryError:
        raise
    except ImportError:
        raise _unavailable(settings.name) from None
    except Exception:  # any engine, any exception: none of them may leave as it is
        raise ArtifactInvalid(
            Reason.ARTIFACT_CORRUPT,
            f"The engine {settings.name} cannot load model.onnx.",
            metadata={"file": "model.onnx"},
        ) from None


def _unavailable(wanted: str) -> ArtifactInvalid:
    return ArtifactInvalid(
        Reason.MODEL_UNAVAILABLE,
        f"The artifact needs the engine {wanted}, which is not installed here; "
        f"there is {', '.join(installed_engines()) or 'none'}.",
        metadata={"engine": wanted},
    )
