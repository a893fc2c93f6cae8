"""Engines run the model of an artifact on tiles; each is one file and one entry in `ENGINES`."""

from gramserve.runtime.engines.engine import INPUT, OUTPUT, Engine
from gramserve.runtime.engines.opening import ENGINES, first_installed, installed_engines, open_engine
from gramserve.runtime.engines.options import BF16, engine_options

__all__ = [
    "BF16",
    "ENGINES",
    "INPUT",
    "OUTPUT",
    "Engine",
    "engine_options",
    "first_installed",
    "installed_engines",
    "open_engine",
]
