"""Settings of the worker."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from gramserve.settings import AbsolutePaths, SharedSettings

PREFIX = "GRAMSERVE_WORKER_"


class WorkerSettings(SharedSettings):
    """What the worker needs to know."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", populate_by_name=True)

    listen: str = Field(
        default="127.0.0.1:50052",
        description="Address of inference, health and reflection, host:port; port 0 is any.",
    )
    metrics_host: str = Field(default="127.0.0.1", description="Address on which the metrics are shown.")
    metrics_port: int = Field(
        default=9102, ge=-1, le=65535, description="Port of the metrics; 0 takes a free one, -1 shows none."
    )
    worker_id: str = Field(
        default="",
        max_length=63,
        pattern=r"^[A-Za-z0-9._-]*$",
        description="Name of this worker in results; unique among the workers. Empty makes one up.",
    )
    children: int = Field(
        default=0, ge=0, le=1024, description="Child processes; 0 is one for each CPU that this process may use."
    )
    allowed_roots: AbsolutePaths = Field(
        default=(),
        description="Folders whose images may be named by reference, {laboratory} in one for its own; empty: none.",
    )
    max_image_bytes: int = Field(default=256 * 2**20, ge=1, description="Largest encoded image, bytes.")
    max_image_pixels: int = Field(default=64_000_000, ge=1, description="Largest image, width x height in pixels.")
    max_slide_bytes: int = Field(default=16 * 2**30, ge=1, description="Largest file of a whole slide, bytes.")
    shard_tiles: int = Field(
        default=1024, ge=1, description="A whole slide of more tiles than this is divided among the children."
    )
    min_image_px: int = Field(default=32, ge=1, description="Shortest side an image may have, pixels.")
    max_attempts: int = Field(
        default=3, ge=1, le=100, description="How often a slide is tried when its errors could pass."
    )
    retry_delay_s: float = Field(
        default=1.0,
        gt=0,
        description="Delay of the second attempt, seconds; doubles for each one after it, with jitter.",
    )
    slide_timeout_s: float = Field(
        default=300.0, gt=0, description="How long one slide, or one load of a model, may run in a child, seconds."
    )
    slide_cpu_s: float = Field(
        default=300.0,
        ge=1,
        description="CPU time that one slide, or one load of a model, may use in a child, seconds; rounded up.",
    )
    child_memory_bytes: int = Field(
        default=3 * 2**30,
        ge=256 * 2**20,
        description="Memory that one child may allocate, bytes; less where the machine or a cgroup has less for each.",
    )
    engine: Literal["auto", "onnxruntime", "openvino"] = Field(
        default="auto",
        description="Engine of all models; auto measures those that an artifact allows and takes the fastest one.",
    )
    reuse_results: bool = Field(
        default=True,
        description="Slides whose pixels the same artifact has called before get that call, unless their batch asks "
        "not to.",
    )
    models_per_child: int = Field(
        default=8, ge=1, description="Model versions that a child keeps loaded; the least recently used one goes."
    )
    models_memory_bytes: int = Field(
        default=2**30,
        ge=1,
        description="Memory that the versions loaded in one child may take, as measured when they were loaded, bytes.",
    )
    model_poll_s: float = Field(
        default=5.0, gt=0, description="How often promoted versions are looked up, to load them ahead, seconds."
    )
    poll_s: float = Field(
        default=1.0,
        ge=0.05,
        le=30.0,
        description="How often an idle worker looks for retries that are due, seconds; new slides wake it at once.",
    )
    infer_requests: int = Field(
        default=256, ge=1, description="Inference requests that may run and wait here together; more are refused."
    )
    infer_bytes: int = Field(
        default=256 * 2**20, ge=2**20, description="Bytes of all inference requests that run and wait here."
    )
    stop_grace_s: float = Field(
        default=20.0, ge=0, description="How long running slides may take to finish at shutdown, seconds."
    )

    @property
    def renew_s(self) -> float:
        """How often leases are renewed: five renewals may fail before a lease ends."""
        return self.lease_s / 6
