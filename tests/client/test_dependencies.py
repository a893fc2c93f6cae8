"""What importing the client and the command line costs."""

from __future__ import annotations

import subprocess
import sys

HEAVY = "{'numpy', 'torch', 'onnxruntime', 'cv2', 'timm', 'matplotlib'}"


def imports(module: str, unwanted: str) -> str:
    code = f"import sys, {module}; print(sorted({unwanted} & sys.modules.keys()))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_the_client_needs_base_packages_only() -> None:
    assert imports("gramserve.client", HEAVY) == "[]"


def test_the_command_line_imports_nothing_heavy() -> None:
    assert imports("gramserve.cli", "{'grpc', 'redis', 'pydantic', 'numpy', 'torch'}") == "[]"


def test_no_command_imports_anything_heavy() -> None:
    modules = ("up", "finetune", "optimize", "submit", "batches", "models", "doctor")
    assert imports(", ".join(f"gramserve.cli.{name}" for name in modules), HEAVY) == "[]"
