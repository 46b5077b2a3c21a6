# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""How many objects of each class registered data sets have."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.data import DatasetCatalog

from ..errors import DataError
from ..messages import describe

__all__ = ["count_instances"]


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
