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

    metrics_host: str = Field(default="127.0.0.1", description="Address on which the metrics are shown.")
    metrics_port: int = Field(
        default=9104, ge=-1, le=65535, description="Port of the metrics; 0 takes a free one, -1 shows none."
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
