# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Write labelme: a json for each image."""

from __future__ import annotations

import base64
import io
import os

import numpy as np
from PIL import Image

from ....coco.rle import mask_crop
from ....files import write_json
from .dataset import CocoObject, Source, Target, file_stem

__all__ = ["write_labelme"]

_VERSION = "5.5.0"  # the first with masks in its files that later ones still read


def write_labelme(source: Source, target: Target) -> None:
    """Write polygons as polygons, RLE as masks (their holes stay), boxes as rectangles.

    Parts of an object, and its keypoints, get the same group_id. Crowds have the flag "iscrowd",
    attributes are flags.
    """
    for done, image in enumerate(source.images, 1):
        shapes: list[dict] = []
        flags = image.get("attributes") or {}
        if not isinstance(flags, dict):
            target.lost.add("attributes of images that are no object", image["file_name"])
        for group, found in enumerate(source.objects(image), 1):
            shapes += _shapes(found, group)
        file = target.folder / f"{file_stem(image['file_name'])}.json"
        final = target.final / file.relative_to(target.folder)
        picture = image["file_name"]
        if target.images is not None:
            picture = os.path.relpath(target.images / picture, final.parent)
        content = {
            "version": _VERSION,
            "flags": flags if isinstance(flags, dict) else {},
            "shapes": shapes,
            "imagePath": picture,
            "imageData": None,
            "imageHeight": image["height"],
            "imageWidth": image["width"],
        }
        write_json(file, content)
        target.progress("images", done, len(source.images))


def _shapes(found: CocoObject, group: int) -> list[dict]:
    flags = found.attributes()
    description = ""
    if isinstance(flags.get("description"), str):
        description = flags.pop("description")
    if found.crowd:
        flags["iscrowd"] = True
    base = {"label": found.label, "group_id": group, "description": description, "flags": flags}
    segmentation = found.entry.get("segmentation")
    if isinstance(segmentation, list) and segmentation and not isinstance(segmentation[0], dict):
        shapes = [
            {**base, "points": np.reshape(p, (-1, 2)).tolist(), "shape_type": "polygon"}
            for p in segmentation
            if len(p) >= 6 and len(p) % 2 == 0
        ]
    elif segmentation:
        shapes = [{**base, **_mask(found)}]
    else:
        x, y, w, h = found.box()
        points = [[x, y], [x + w, y + h]]
        shapes = [{**base, "points": points, "shape_type": "rectangle"}]
    for name, x, y, visible in found.points():
        if visible:
            hidden = {"occluded": True} if visible == 1 else {}
            point = {**base, "label": name, "points": [[x, y]], "shape_type": "point"}
            shapes.append({**point, "flags": hidden, "description": ""})
    for shape in shapes:
        shape.setdefault("mask", None)
    return shapes


def _mask(found: CocoObject) -> dict:
    rle = found.rle()
    assert rle is not None
    x, y, part = mask_crop(rle)
    file = io.BytesIO()
    if not part.size:
        part = np.zeros((1, 1), dtype=np.uint8)
    Image.fromarray(np.ascontiguousarray(part.T != 0)).save(file, "PNG")
    # The second point is the last pixel, not the edge.
    points = [[x, y], [x + part.shape[0] - 1, y + part.shape[1] - 1]]
    text = base64.b64encode(file.getvalue()).decode("ascii")
    return {"points": points, "shape_type": "mask", "mask": text}
