# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Objects of the ground truth whose boxes are given to the heads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from detectron2.structures import BoxMode

__all__ = ["TrueBox", "annotated_boxes"]


@dataclass
class TrueBox:
    """An annotation that counts.

    Attributes:
        index: place in its image's annotations.
        category: contiguous id.
        box: x0, y0, x1, y1 in pixels of the image file.
        area: of the mask in pixels; of the box, where there is no mask.
    """

    image_id: int | str
    index: int
    category: int
    box: list[float]
    area: float


def annotated_boxes(record: dict) -> Iterator[tuple[dict, TrueBox]]:
    """Annotations of an image that are no crowds, with their boxes.

    Args:
        record: of a data set in Detectron2's format.
    """
    for index, item in enumerate(record.get("annotations", [])):
        if not item.get("iscrowd", 0):
            box = BoxMode.convert(item["bbox"], item["bbox_mode"], BoxMode.XYXY_ABS)
            x0, y0, x1, y1 = box = [float(v) for v in box]
            area = max(x1 - x0, 0) * max(y1 - y0, 0)
            yield item, TrueBox(record["image_id"], index, item["category_id"], box, area)
