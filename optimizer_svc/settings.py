"""Settings of the optimizer service."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from gramserve.settings import AbsolutePaths, SharedSettings

PREFIX = "GRAMSERVE_OPTIMIZER_"


class OptimizerSettings(SharedSettings):
    """What the optimizer service needs to know."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", populate_by_name=True)

    listen: str = Field(default="127.0.0.1:50053", description="Address of the gRPC API, host:port; port 0 is any.")
    metrics_host: str = Field(default="127.0.0.1", description="Address on which the metrics are shown.")
    metrics_port: int = Field(
        default=9103, ge=-1, le=65535, description="Port of the metrics; 0 takes a free one, -1 shows none."
    )
    work_folder: str = Field(
        default="./gramserve-data/optimizer",
        description="Local folder for running optimizations; what they finished is also in the store.",
    )
    allowed_roots: AbsolutePaths = Field(
        default=(),
        description="Folders from which checkpoints and data may be read by reference; empty allows uploads only.",
    )
    max_upload_bytes: int = Field(default=20 * 2**30, ge=1, description="Largest file that can be uploaded, bytes.")
    max_budget_minutes: float = Field(
        default=1440.0, gt=0, description="Longest time that an optimization may aim at, minutes."
    )
    cores: int = Field(default=0, ge=0, description="Cores that a running optimization may use; 0 is all.")
    nice: int = Field(
        default=10, ge=0, le=19, description="How far a running optimization steps back so that serving goes on."
    )
    signing_key: str = Field(
        default="",
        description="Key that signs artifacts: a PEM file that only its owner can read, or a pkcs11: URI. Empty: none.",
    )
    poll_s: float = Field(
        default=0.5, ge=0.05, description="How often the queue is asked for work and a watcher looks, seconds."
    )
    reconcile_s: float = Field(
        default=30.0, gt=0, description="How often the queue is compared with the store, seconds."
    )
    retry_s: float = Field(
        default=5.0, ge=0, description="Delay of another try after an error that may pass, seconds; doubles each time."
    )
    stop_grace_s: float = Field(
        default=10.0, ge=0, description="How long running calls and a running step may take at shutdown, seconds."
    )
