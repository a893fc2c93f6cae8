"""Settings of the gateway."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from gramserve.settings import AbsolutePaths, SharedSettings
from gramserve.store.retention import RetentionDays


class GatewaySettings(SharedSettings):
    """What the gateway can be told; environment variables start with GRAMSERVE_GATEWAY_."""

    model_config = SettingsConfigDict(
        env_prefix="GRAMSERVE_GATEWAY_", frozen=True, extra="ignore", populate_by_name=True
    )

    listen: str = Field(default="127.0.0.1:50051", description="host:port for gRPC; port 0 takes a free one.")
    metrics_host: str = Field(default="127.0.0.1", description="Address on which the metrics are shown.")
    metrics_port: int = Field(
        default=9101, ge=-1, le=65535, description="Port of the metrics; 0 takes a free one, -1 shows none."
    )
    manifest_roots: AbsolutePaths = Field(
        default=(),
        description="Folders whose files a manifest_uri may name, {laboratory} in one for its own; empty: none.",
    )
    max_inline_slides: int = Field(default=10_000, ge=1, description="Most slides inside one CreateSlideBatch.")
    max_manifest_slides: int = Field(
        default=1_000_000, ge=1, le=1_000_000, description="Most slides in the file that a manifest_uri names."
    )
    max_manifest_bytes: int = Field(
        default=256 << 20, ge=1, description="Largest file that a manifest_uri may name, bytes."
    )
    max_queued_slides: int = Field(
        default=2_000_000, ge=1, description="Slides that may wait or run at once; more are refused with QUEUE_FULL."
    )
    laboratory_queued_slides: int = Field(
        default=0,
        ge=0,
        description="Slides of one laboratory that may wait or run at once, STAT and ROUTINE apart; 0 is no quota.",
    )
    laboratory_open_batches: int = Field(
        default=0,
        ge=0,
        description="Batches of one laboratory that may be open at once, STAT and ROUTINE apart; 0 is no quota.",
    )
    max_upload_bytes: int = Field(default=1 << 30, ge=1, description="Largest image that may be uploaded, bytes.")
    reconcile_interval_s: float = Field(
        default=1.0, gt=0, description="How often open batches are looked at and leases are swept, seconds."
    )
    finish_interval_s: float = Field(
        default=0.05, gt=0, description="How often a batch whose slides have all ended is noticed, seconds."
    )
    scan_interval_s: float = Field(
        default=300.0, gt=0, description="How often all unfinished batches are compared with the queue, seconds."
    )
    find_interval_s: float = Field(
        default=10.0, gt=0, description="How often batches that other gateways accepted are looked for, seconds."
    )
    stall_s: float = Field(
        default=60.0, gt=0, description="A batch without progress for so long has its queue entries audited, seconds."
    )
    probe_interval_s: float = Field(
        default=10.0, gt=0, description="How often a write to the store is tried for the health answer, seconds."
    )
    heartbeat_s: float = Field(default=30.0, gt=0, description="Longest silence of a watch, seconds.")
    event_retention_s: float = Field(
        default=86_400.0,
        gt=0,
        description="How long Redis keeps the events of a finished batch, seconds; afterwards a watch replays results.",
    )
    event_retention_slides: int = Field(
        default=1000,
        ge=0,
        description="Slides of finished batches whose events Redis keeps, the last batch always; the oldest go first.",
    )
    retention_batches_days: float = Field(
        default=0.0, ge=0, description="Days that a batch is kept after its end; then a tombstone is left. 0: for ever."
    )
    retention_images_days: float = Field(
        default=0.0, ge=0, description="Days that an image is kept to which no kept batch refers. 0: for ever."
    )
    retention_uploads_days: float = Field(
        default=7.0, ge=0, description="Days that the parts of an unfinished upload are kept. 0: for ever."
    )
    retention_reuse_days: float = Field(
        default=0.0, ge=0, description="Days that calls are kept for slides of the same pixels. 0: for ever."
    )
    retention_optimizations_days: float = Field(
        default=0.0, ge=0, description="Days that reports and trials of an ended optimization are kept. 0: for ever."
    )
    retention_audit_days: float = Field(
        default=0.0, ge=0, description="Days that the audit record is kept. 0: for ever."
    )
    retention_interval_s: float = Field(
        default=3600.0, gt=0, description="How often what is older than its retention is purged, seconds."
    )
    max_crashes: int = Field(
        default=3, ge=1, description="Times a slide may crash its worker before it is given up. The same for workers."
    )
    shutdown_grace_s: float = Field(
        default=10.0, ge=0, description="How long running calls may take to end when the gateway stops, seconds."
    )

    @property
    def retention(self) -> RetentionDays:
        """How long each kind of record is kept."""
        return RetentionDays(
            batches=self.retention_batches_days,
            images=self.retention_images_days,
            uploads=self.retention_uploads_days,
            reuse=self.retention_reuse_days,
            optimizations=self.retention_optimizations_days,
            audit=self.retention_audit_days,
        )
