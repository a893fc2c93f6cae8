"""Labelled synthetic Gram fields, the same for the same seed: for the demo, tests and a first look without data.

They look like Gram stains and are good for nothing clinical. Colour, focus and light are drawn independently of the
label, so a model has to look at the stain and shape of the bacteria.
"""

from __future__ import annotations

from gramserve.samples.folder import encode, write_image_folder
from gramserve.samples.labels import BACKGROUND, LABEL_ROLES, LABELS, ORGANISMS, write_labels_yaml
from gramserve.samples.slides import Sample, slide

__all__ = [
    "BACKGROUND",
    "LABELS",
    "LABEL_ROLES",
    "ORGANISMS",
    "Sample",
    "encode",
    "slide",
    "write_image_folder",
    "write_labels_yaml",
]
