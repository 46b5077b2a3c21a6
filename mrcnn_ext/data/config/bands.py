# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The keys of images that only ``MRCNN_EXT.DATA.BANDS`` reads as they are."""

from __future__ import annotations

import os

import numpy as np

from ...coco.read import read_coco
from ...config.load import get_config_file, load_config
from ..pictures import bands_problem
from ..stats import pixel_statistics
from ..stats.pixels import IMAGENET_STD
from .choices import Choice
from .sources import Source

__all__ = ["band_choices"]

_READ = 200  # images


def band_choices(source: Source, base: str) -> list[Choice]:
    """Bands, their type and their statistics, where the first image is not three bands of 8 bits.

    Args:
        source: the training sets; images of the first one whose folder is known are read.
        base: name of the base config, whose weights expect values of some standard deviation.

    Returns:
        nothing for pictures that Detectron2 reads as they are.

    Raises:
        DataError: an image cannot be read, or has other bands than the first.
    """
    paths = _images(source)
    is_npy = bool(paths) and str(paths[0]).lower().endswith(".npy")  # also a damaged one
    if not paths or not (is_npy or bands_problem(paths[0])):
        return []
    pixels = pixel_statistics(paths, most=_READ)
    # What the weights of the base were trained on has this deviation after their normalisation.
    wanted = IMAGENET_STD / float(np.mean(load_config(get_config_file(base)).MODEL.PIXEL_STD))
    std = [float(f"{(value or 1.0) / wanted:.6g}") for value in pixels["std"]]
    why = f"Mean and standard deviation of the bands, over {pixels['images']} images"
    if not 0.5 < wanted < 2:
        why += f", divided by {wanted:.3g}: the weights of the base expect values as large as of 8 bits"
    kind = f"The files have {pixels['bands']} bands of {pixels['dtype']} (docs/bands.md)."
    return [
        Choice("MRCNN_EXT.DATA.BANDS", pixels["chosen"], kind),
        Choice("MRCNN_EXT.DATA.PIXEL_TYPE", pixels["dtype"]),
        Choice("MODEL.PIXEL_MEAN", pixels["mean"], f"{why}."),
        Choice("MODEL.PIXEL_STD", std),
        Choice("MODEL.BACKBONE.FREEZE_AT", 0, "The first convolution has to learn these bands."),
    ]


def _images(source: Source) -> list[str]:
    for path, root in source.files:
        if root is None:
            continue
        names = [i.get("file_name") for i in read_coco(path)["images"] if isinstance(i, dict)]
        paths = [os.path.join(root, name) for name in names if isinstance(name, str)]
        found = [p for p in paths if os.path.isfile(p)]
        if found:
            return found
    return []
