"""Nothing that gramserve loads reports to its maker."""

from __future__ import annotations

import sys

PACKAGE = "openvino_telemetry"


def keep_telemetry_out() -> None:
    """Makes `import openvino_telemetry` fail in this process; call it before openvino or nncf are imported.

    OpenVINO requires the package and sends an event when it is imported itself; both work without it.
    """
    sys.modules[PACKAGE] = None  # type: ignore[assignment]  # Python's own way to say that there is no such module
