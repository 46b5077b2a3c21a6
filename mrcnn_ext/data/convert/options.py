# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""What readers are told besides the source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Options"]


@dataclass
class Options:
    """
    Attributes:
        images: the folder of the images; None: where the format has them.
        classes: names in the order of their ids.
        class_attribute: VIA: the attribute that is the class.
        group_attribute: VIA: the attribute that says which regions are one object.
        boxes_as_masks: rectangles that were drawn are masks, too.
        part: YOLO and VOC: the part of the data set that is wanted; None: all of them.
        keypoints: names of the keypoints in their order; empty: as the files name them.
        voc_origin: VOC: the number of the first pixel, 0 or 1; None: told by the boxes.
        kind: masks: "ids", "colours" or "files"; None: told by the files.
        class_divisor: masks: an id divided by it is the number of its class, from 0.
        ignore: masks: values that belong to no object.
        class_pattern: masks: a regular expression whose group "class" is the class, in a path.
        progress: called with stage, done, total.
    """

    images: Path | None = None
    classes: list[str] = field(default_factory=list)
    class_attribute: str | None = None
    group_attribute: str | None = None
    boxes_as_masks: bool = False
    part: str | None = None
    keypoints: list[str] = field(default_factory=list)
    voc_origin: int | None = None
    kind: str | None = None
    class_divisor: int | None = None
    ignore: list[int] = field(default_factory=list)
    class_pattern: str | None = None
    progress: Callable[[str, int, int], None] = lambda *_: None
