"""Artifacts as messages of the contract, the same from the gateway and from the optimizer."""

from __future__ import annotations

from collections.abc import Sequence

from gramserve.store.manifest import ArtifactManifest, Label
from gramserve.v1 import model_pb2


def version_to_message(manifest: ArtifactManifest, digest: str, aliases: Sequence[str]) -> model_pb2.ModelVersion:
    """A version of a model; what its report does not say stays at its default."""
    evaluation, onnx = manifest.evaluation, manifest.files.get("model.onnx")
    message = model_pb2.ModelVersion(
        name=f"models/{manifest.model}/versions/{manifest.version}",
        digest=digest,
        architecture=manifest.source.architecture,
        labels=[label_to_message(label) for label in manifest.labels],
        recipe=str(manifest.recipe.get("description") or manifest.recipe.get("name") or ""),
        size_bytes=onnx.bytes if onnx else 0,
        accuracy=_number(evaluation.get("artifact_accuracy")),
        checkpoint_accuracy=_number(evaluation.get("checkpoint_accuracy")),
        images_per_second=_number(evaluation.get("artifact_images_per_s")),
        proved=evaluation.get("proved") is True,
        aliases=aliases,
        size_ratio=_number(evaluation.get("size_ratio")),
        speed_ratio=_number(evaluation.get("speed_ratio")),
    )
    message.create_time.FromDatetime(manifest.created)
    return message


def label_to_message(label: Label) -> model_pb2.Label:
    """One output class with its clinical role."""
    return model_pb2.Label(
        name=label.name,
        kind=model_pb2.Label.Kind.Value(f"KIND_{label.kind.upper()}"),
        gram=model_pb2.Label.Gram.Value(f"GRAM_{(label.gram or 'unspecified').upper()}"),
        morphology=label.morphology or "",
        arrangement=label.arrangement or "",
    )


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
