"""The comparison behind the choice of an architecture: architectures x recipes x pruned or not, on one data set."""

from __future__ import annotations

from optimizer_svc.study.run import StudyProgress, run_study
from optimizer_svc.study.spec import StudySpec

__all__ = ["StudyProgress", "StudySpec", "run_study"]
