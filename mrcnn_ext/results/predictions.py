# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The predictions of a run as every form needs them: lines of images, and what their ids mean."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from pycocotools import mask as mask_util

from ..coco.rle import rle_areas
from ..skeletons import Skeleton, SkeletonSet

__all__ = ["Predictions"]


@dataclass(frozen=True)
class Predictions:
    """What a form is made of.

    Args:
        lines: one dict an image, as ``coco_results.jsonl`` has them; is gone through several times.
        class_names: by class of the model; None: they are not known, a class is called by its number.
        category_ids: class of the model -> the category's id in the lines; empty: they are the same.
        skeletons: of the classes; None: keypoints have no names.
    """

    lines: Iterable[dict]
    class_names: Sequence[str] | None = None
    category_ids: Mapping[int, int | float | str] | None = None
    skeletons: SkeletonSet | None = None

    def class_of(self, record: dict) -> int:
        """The model's class of a prediction."""
        return self._class_ids.get(record["category_id"], record["category_id"])

    def class_name(self, record: dict) -> str:
        return self._name(self.class_of(record))

    def categories(self) -> list[dict]:
        """COCO's categories in the order of the model's classes, with their skeletons.

        Where no names are known, those that occur, sorted.
        """
        if self.class_names is not None:
            classes: list[int] = list(range(len(self.class_names)))
        else:
            classes = sorted({self.class_of(r) for line in self.lines for r in line["results"]})
        return [self._category(class_id) for class_id in classes]

    def skeleton_of(self, class_id: int) -> Skeleton | None:
        """The keypoints of a class; None if it has none, or they have no names."""
        skeletons = self.skeletons
        if skeletons is None:
            return None
        if not skeletons.class_skeletons:  # one skeleton, of classes without names
            return skeletons.skeletons[0]
        return skeletons.skeleton(class_id) if class_id < skeletons.num_classes else None

    def keypoint_names(self, record: dict) -> list[str]:
        """One for each keypoint of a prediction; "1", "2" … where they are not known."""
        number = len(record.get("keypoints") or ()) // 3
        skeleton = self.skeleton_of(self.class_of(record))
        known = list(skeleton.keypoint_names) if skeleton is not None else []
        return known if len(known) == number else [str(i + 1) for i in range(number)]

    def objects(self) -> Iterator[tuple[dict, dict]]:
        """(line, prediction) of all images, in their order."""
        return ((line, record) for line in self.lines for record in line["results"])

    @staticmethod
    def has_mask(record: dict) -> bool:
        """It has a mask, and that a pixel."""
        segmentation = record.get("segmentation")
        return bool(segmentation) and bool(mask_util.area(segmentation))

    @staticmethod
    def area(record: dict) -> float:
        """Pixels of the mask; without one, of the box."""
        if record.get("segmentation"):
            return rle_areas([record["segmentation"]])[0]
        return record["bbox"][2] * record["bbox"][3]

    def _name(self, class_id: int) -> str:
        names = self.class_names
        return names[class_id] if names and class_id in range(len(names)) else str(class_id)

    def _category(self, class_id: int) -> dict:
        category_id = (self.category_ids or {}).get(class_id, class_id)
        entry: dict = {"id": category_id, "name": self._name(class_id)}
        skeleton = self.skeleton_of(class_id)
        if skeleton is not None:
            place = {name: number for number, name in enumerate(skeleton.keypoint_names, 1)}
            entry["keypoints"] = list(skeleton.keypoint_names)
            entry["skeleton"] = [[place[a], place[b]] for a, b in skeleton.edges]
            entry["flip_map"] = [list(pair) for pair in skeleton.flip_map]
            if skeleton.sigmas:
                entry["sigmas"] = list(skeleton.sigmas)
        return entry

    @cached_property
    def _class_ids(self) -> dict:
        return {category: class_id for class_id, category in (self.category_ids or {}).items()}
