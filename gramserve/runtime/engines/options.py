"""The settings of engines that are worth measuring."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from gramserve.runtime.engines.cpu import cpu_flags, has_bf16, int8_overflows
from gramserve.runtime.engines.opening import installed_engines
from gramserve.store.manifest import EngineSettings

# Four tiles at once are within 3 % of the best size for both engines, from 0.6 to 10 ms a tile; more only take memory
# and leave larger rests.
BATCH_TILES: Final = 4
BF16: Final = EngineSettings(name="openvino", settings={"INFERENCE_PRECISION_HINT": "bf16"}, batch_tiles=BATCH_TILES)
FAST_WITHOUT_VNNI: Final = EngineSettings(
    name="onnxruntime", settings={"session.x64quantprecision": "0"}, batch_tiles=BATCH_TILES
)


def engine_options(
    names: Collection[str] = (), *, bf16: bool = False, flags: Collection[str] | None = None
) -> tuple[EngineSettings, ...]:
    """What a search should measure on this CPU: every installed engine (of `names`, if any) with one thread.

    On an x86 CPU without VNNI onnxruntime's faster int8 kernels, which can overflow, are an option of their own. So
    is OpenVINO in bfloat16, when `bf16` asks for it and the CPU computes in it. Both give other numbers and are never a
    silent default. `flags` are the CPU's instruction sets, by default those of this one.
    """
    present = cpu_flags() if flags is None else flags
    engines = [name for name in installed_engines() if not names or name in names]
    options = [EngineSettings(name=name, batch_tiles=BATCH_TILES) for name in engines]
    if FAST_WITHOUT_VNNI.name in engines and int8_overflows(present):
        options.append(FAST_WITHOUT_VNNI)
    if bf16 and BF16.name in engines and has_bf16(present):
        options.append(BF16)
    return tuple(options)
