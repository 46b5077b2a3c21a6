# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Public-domain photos of persons, and the package's own model on them: a first look."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

from detectron2.data.detection_utils import read_image

from ..checkpoint.shipped_weights import DEFAULT_SHIPPED, SHIPPED
from ..config.load import load_config
from ..visualization.instances import draw_instances
from .picture_file import write_picture
from .predictor import Predictor

__all__ = ["draw_photos", "example_photos"]

_PHOTOS = ("astronaut.png", "camera.png")


def example_photos() -> list[Path]:
    """Photos of persons that come with scikit-image; none where it is not installed."""
    package = importlib.util.find_spec("skimage")
    if package is None or not package.submodule_search_locations:
        return []
    folder = Path(next(iter(package.submodule_search_locations))) / "data"
    return [folder / name for name in _PHOTOS if (folder / name).is_file()]


def draw_photos(
    photos: list[Path], folder: Path, score_threshold: float = 0.5
) -> Iterator[tuple[Path, int]]:
    """Predict with the package's own model and draw.

    Args:
        photos: image files.
        folder: where the pictures go, under the photos' names.

    Yields:
        picture, and the number of persons in it, as soon as it is written.

    Raises:
        ImportError: timm is missing.
        WeightsError: the weights cannot be read.
        DataError, OSError: a picture cannot be written.
    """
    shipped = SHIPPED[DEFAULT_SHIPPED]
    predictor = Predictor(
        load_config(shipped.config),
        weights=shipped.uri,
        device="cpu",
        min_mask_score=score_threshold,
    )
    folder.mkdir(parents=True, exist_ok=True)
    for photo in photos:
        image = read_image(str(photo), "RGB")
        found = predictor(image[:, :, ::-1])["instances"]
        found = found[found.scores >= score_threshold]
        picture = draw_instances(image, found, predictor.metadata)
        file = folder / photo.name
        write_picture(file, picture[:, :, ::-1])
        yield file, len(found)
