# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""How many objects of each class registered data sets have."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..errors import DataError
from ..messages import describe, shorten

__all__ = ["count_instances", "warn_of_missing_masks"]

# Detectron2's tools print what is logged below its own name.
logger = logging.getLogger("detectron2." + __name__)


def count_instances(names: str | Sequence[str], num_classes: int) -> list[int]:
    """Load data sets and count their objects; crowds, which training leaves out, do not count.

    Args:
        names: registered data sets.
        num_classes: K; classes are 0 … K - 1.

    Returns:
        K counts.

    Raises:
        DataError: an object of another class; names data set and image.
    """
    counts = [0] * num_classes
    for name in [names] if isinstance(names, str) else names:
        for record in DatasetCatalog.get(name):
            for annotation in record.get("annotations", ()):
                if annotation.get("iscrowd", 0):
                    continue
                label = annotation["category_id"]
                if not 0 <= label < num_classes:
                    raise DataError(
                        f"'{name}': image {record.get('file_name')} has an object of class "
                        f"{describe(label)}, which is outside 0 … {num_classes - 1}; set "
                        "MODEL.ROI_HEADS.NUM_CLASSES (num_classes) to the number of its classes."
                    )
                counts[label] += 1
    return counts


def warn_of_missing_masks(
    records: Sequence[dict], names: str | Sequence[str], *, class_agnostic: bool = False
) -> None:
    """Warn if no object to train on has a mask, or none of some class: nothing else would say it.

    Args:
        records: of the training sets, whose objects may have a box only.
        names: of these sets, whose metadata have the names of the classes.
        class_agnostic: one mask for all classes is learned, so that each learns from the others.
    """
    held, masked = set(), set()
    for record in records:
        for annotation in record.get("annotations", ()):
            if not annotation.get("iscrowd", 0):
                held.add(annotation["category_id"])
                if annotation.get("segmentation"):
                    masked.add(annotation["category_id"])
    if held and not masked:
        logger.warning(
            "No training object has a mask, so that the mask head learns nothing: turn it off "
            "(MODEL.MASK_ON False), or add a set with masks."
        )
    elif held - masked and not class_agnostic:
        first = names if isinstance(names, str) else names[0]
        classes = MetadataCatalog.get(first).get("thing_classes") or ()
        lacking = [
            f"'{classes[k]}'" if k < len(classes) else f"class {k}" for k in sorted(held - masked)
        ]
        logger.warning(
            f"No training object of {shorten(lacking, 20)} has a mask: a mask head with one mask for "
            "each class does not learn theirs. One mask for all classes does "
            "(MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK True)."
        )
