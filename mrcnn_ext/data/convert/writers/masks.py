# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Write masks: a PNG for each object, so that overlaps, holes and any number of classes stay."""

from __future__ import annotations

from urllib.parse import quote

import numpy as np
from PIL import Image
from pycocotools import mask as mask_util

from ....files import replaced_file
from .dataset import Source, Target, file_stem

__all__ = ["write_masks"]


def write_masks(source: Source, target: Target) -> None:
    """Write NAME/0001.CLASS.png for the objects of the image NAME, NAME/0002.CLASS.crowd.png for
    crowds: 255 inside, 0 outside."""
    for done, image in enumerate(source.images, 1):
        for number, found in enumerate(source.objects(image), 1):
            if found.attributes():
                target.lost.add("attributes of objects", found.where)
            if any(seen for *_, seen in found.points()):
                target.lost.add("keypoints", found.where)
            rle = found.rle()
            if rle is None:
                target.lost.add("objects with a box only", found.where)
                continue
            label = quote(found.label, safe=" ").replace(".", "%2E")
            name = f"{number:04d}.{label}{'.crowd' * found.crowd}.png"
            values = np.ascontiguousarray(mask_util.decode(rle)) * np.uint8(255)
            with replaced_file(target.folder / file_stem(image["file_name"]) / name) as file:
                Image.fromarray(values).save(file, "PNG")
        (target.folder / file_stem(image["file_name"])).mkdir(parents=True, exist_ok=True)
        target.progress("images", done, len(source.images))
