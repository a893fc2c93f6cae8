"""What every model takes and gives by the Open Inference Protocol, and its description for clients."""

from __future__ import annotations

from gramserve.oip import open_inference_pb2 as pb
from gramserve.rpc.options import MAX_MESSAGE_BYTES
from gramserve.store.manifest import ArtifactManifest

TILES, IMAGES = "tiles", "images"
LOGITS, PROBABILITIES, PLACES = "logits", "probabilities", "places"
OUTPUTS = (LOGITS, PROBABILITIES, PLACES)
UINT8, FP32, INT32, BYTES = "UINT8", "FP32", "INT32", "BYTES"
OF_IMAGES = ".images"
"""What a model that takes images is called by behind its name; no model of the registry has a dot in its name."""
PLACE = ("image", "x", "y", "width", "height")
"""The columns of the output "places"."""


def split(name: str) -> tuple[str, bool]:
    """The model of the registry behind a name of the protocol, and whether it takes images under that name."""
    return name.removesuffix(OF_IMAGES), name.endswith(OF_IMAGES)


def metadata(manifest: ArtifactManifest, *, of_images: bool) -> pb.ModelMetadataResponse:
    """What a version takes and gives."""
    described = config(manifest, of_images=of_images, children=1)
    batch = [] if of_images else [-1]
    tensor = pb.ModelMetadataResponse.TensorMetadata
    return pb.ModelMetadataResponse(
        name=described.name,
        versions=[str(manifest.version)],
        platform=described.platform,
        inputs=[
            tensor(name=one.name, datatype=_name(one.data_type), shape=[*batch, *one.dims]) for one in described.input
        ],
        outputs=[
            tensor(name=one.name, datatype=_name(one.data_type), shape=[*batch, *one.dims]) for one in described.output
        ],
    )


def config(manifest: ArtifactManifest, *, of_images: bool, children: int) -> pb.ModelConfig:
    """How a version is configured, for clients that make up their own data; it runs in `children` processes.

    Tiles are a batch, in and out. Images are not: each gives as many rows as it has tiles.
    """
    edge, labels = manifest.preprocessing.input_px, len(manifest.labels)
    if of_images:
        taken = pb.ModelInput(name=IMAGES, data_type=pb.TYPE_STRING, dims=[-1])
        batch, rows = 0, [-1]
    else:
        taken = pb.ModelInput(
            name=TILES, data_type=pb.TYPE_UINT8, format=pb.ModelInput.FORMAT_NHWC, dims=[edge, edge, 3]
        )
        batch, rows = max(1, MAX_MESSAGE_BYTES // (edge * edge * 3) - 1), []
    return pb.ModelConfig(
        name=manifest.model + (OF_IMAGES if of_images else ""),
        platform=f"gramserve_{manifest.engine.name}",
        backend="gramserve",
        max_batch_size=batch,
        input=[taken],
        output=[
            pb.ModelOutput(name=LOGITS, data_type=pb.TYPE_FP32, dims=[*rows, labels]),
            pb.ModelOutput(name=PROBABILITIES, data_type=pb.TYPE_FP32, dims=[*rows, labels]),
            pb.ModelOutput(name=PLACES, data_type=pb.TYPE_INT32, dims=[*rows, len(PLACE)]),
        ],
        instance_group=[pb.ModelInstanceGroup(name="children", kind=pb.ModelInstanceGroup.KIND_CPU, count=children)],
    )


def _name(kind: pb.DataType.ValueType) -> str:
    """The protocol's own name of a type: its configuration calls BYTES a string."""
    return BYTES if kind == pb.TYPE_STRING else pb.DataType.Name(kind).removeprefix("TYPE_")
