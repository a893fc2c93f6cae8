"""`python -m tests.faults.run gateway|worker|optimizer [MODULE...]`: a service with named points, in its own process.

It is what `python -m gateway` and its like start, after `tests.faults.points` wrapped what has points; each MODULE is
imported before, and may add to `points.POINTS` or prepare the process otherwise.
"""

from __future__ import annotations

import functools
import importlib
import sys

from tests.faults import points

SCRIPTED_JOB = (sys.executable, "-m", "tests.optimizer_service.scripted_job")


def main(role: str, modules: list[str]) -> int:
    """The exit status of the service."""
    for module in modules:
        importlib.import_module(module)
    points.install(role)
    match role:
        case "gateway":
            from gateway.__main__ import main as serve
        case "worker":
            from inference_svc.__main__ import main as serve
        case "optimizer":
            from optimizer_svc import __main__ as optimizer

            optimizer.App = functools.partial(optimizer.App, job_command=SCRIPTED_JOB)  # type: ignore[misc,assignment]
            serve = optimizer.main
        case other:
            raise AssertionError(other)
    return serve()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
