"""Settings of what writes a report each morning."""

from __future__ import annotations

import re
from datetime import time

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from gramserve.settings import AbsolutePaths, SharedSettings

_TIME = re.compile(r"([01]\d|2[0-3]):[0-5]\d")


class ReportSettings(SharedSettings):
    """What the reports can be told; environment variables start with GRAMSERVE_REPORT_."""

    model_config = SettingsConfigDict(
        env_prefix="GRAMSERVE_REPORT_", frozen=True, extra="ignore", populate_by_name=True
    )

    folder: str = Field(
        default="./gramserve-data/reports",
        description="Folder of the reports; made when missing, for its owner alone.",
    )
    at: str = Field(
        default="07:00", description="Time of day at which the report of the night is written, local time (TZ), HH:MM."
    )
    keep_days: int = Field(
        default=31, ge=0, description="Days that a report is kept; it shows what was in results. 0: for ever."
    )
    allowed_roots: AbsolutePaths = Field(
        default=(), description="Folders that references of slides may lead to, as for the workers; for pictures."
    )

    @property
    def time_of_day(self) -> time:
        """`at` as a time."""
        return time.fromisoformat(self.at)

    @field_validator("at")
    @classmethod
    def _time_of_day(cls, at: str) -> str:
        if not _TIME.fullmatch(at):
            raise ValueError("must be a time of day such as 07:00")
        return at
