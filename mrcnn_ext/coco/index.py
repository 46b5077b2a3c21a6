# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Ground truth and detections of one evaluation, by image and category."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from pycocotools import mask as mask_util
from pycocotools.coco import COCO

from ..errors import DataError

__all__ = ["Detections", "GroundTruth", "ImageCategory"]

# Number of an image, number of a category: both count from 1, in the order of the sorted ids. That
# is the order in which pycocotools takes them, which decides between equal scores.
ImageCategory = tuple[int, int]

_MASKS_PER_CALL = 255  # of pycocotools' area: it counts them in eight bits


class GroundTruth:
    """What a COCO json says, numbered anew; the json's own dicts are left as they are.

    Annotations count from 1, too: to pycocotools, an object with id 0 is never found.

    Args:
        coco: the ground truth.
        image_ids: evaluate these images alone; None for all.
        source: name of the json, for messages.

    Raises:
        DataError: one of ``image_ids`` is not in the json, or an annotation lacks a field.
    """

    def __init__(self, coco: COCO, image_ids: Iterable | None = None, source: str = "") -> None:
        self.source = source or "the ground truth"
        self.known_images = coco.imgs
        chosen = coco.imgs if image_ids is None else list(image_ids)
        for image_id in chosen:
            if image_id not in coco.imgs:
                raise DataError(f"{self.source}: there is no image with id {image_id!r}.")
        self.image_ids = sorted(set(chosen))
        self.images = [coco.imgs[i] for i in self.image_ids]
        self.image_number = {image_id: n for n, image_id in enumerate(self.image_ids, 1)}
        self.category_ids = sorted(coco.cats)
        self.categories = [coco.cats[c] for c in self.category_ids]
        self.category_number = {c: n for n, c in enumerate(self.category_ids, 1)}
        self.by_pair: dict[ImageCategory, list[dict]] = defaultdict(list)
        self.objects: list[dict] = []
        for image_id in self.image_ids:
            for annotation in coco.imgToAnns.get(image_id, ()):
                self._add(annotation)
        self._rles: dict[int, dict] = {}

    def _add(self, annotation: dict) -> None:
        category = self.category_number.get(annotation["category_id"])
        if category is None:  # neither does pycocotools look at it
            return
        number = self.image_number[annotation["image_id"]]
        try:
            entry = {
                "id": len(self.objects) + 1,
                "image_id": number,
                "category_id": category,
                "area": annotation["area"],
                "iscrowd": int(annotation.get("iscrowd", 0)),
                "bbox": annotation["bbox"],
                "row": len(self.by_pair[number, category]),
                "annotation": annotation,
            }
        except KeyError as error:
            raise DataError(
                f"{self.source}: annotation {annotation.get('id')} of image "
                f"{annotation['image_id']!r} has no {error}."
            ) from error
        self.objects.append(entry)
        self.by_pair[number, category].append(entry)

    def size(self, image_number: int) -> tuple[int, int]:
        """Height and width of an image."""
        image = self.images[image_number - 1]
        return image["height"], image["width"]

    def check_mask(self, image_number: int, rle: dict) -> None:
        """pycocotools compares masks of different sizes without complaint: it says -1.

        Raises:
            DataError: the mask has not its image's size.
        """
        height, width = self.size(image_number)
        if tuple(rle["size"]) != (height, width):
            raise DataError(
                f"a predicted mask for image id {self.image_ids[image_number - 1]!r} has "
                f"{rle['size'][1]} x {rle['size'][0]} pixels, but the image in {self.source} has "
                f"{width} x {height}."
            )

    def rle(self, entry: dict) -> dict:
        """The mask of an object as compressed RLE.

        Raises:
            DataError: it has none.
        """
        if entry["id"] not in self._rles:
            segmentation = entry["annotation"].get("segmentation")
            if not segmentation:
                raise DataError(
                    f"{self.source}: annotation {entry['annotation'].get('id')} has no "
                    "'segmentation', which evaluating masks needs."
                )
            self._rles[entry["id"]] = to_rle(segmentation, *self.size(entry["image_id"]))
        return self._rles[entry["id"]]


def to_rle(segmentation, height: int, width: int) -> dict:
    """Polygons, uncompressed or compressed RLE to compressed RLE."""
    if isinstance(segmentation, list):
        return mask_util.merge(mask_util.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return mask_util.frPyObjects(segmentation, height, width)
    return segmentation


class Detections:
    """Records in COCO's result format, numbered as the ground truth is.

    Args:
        records: dicts with "image_id", "category_id" (the json's ids), "score" and "bbox" (XYWH),
            "segmentation" or "keypoints"; "mask_score" optionally.
        ground_truth: what they are compared with. Records of images that it leaves out are
            dropped.
        source: name of the results' file, for messages.

    Raises:
        DataError: an image or category that the ground truth does not know.
    """

    def __init__(self, records: list[dict], ground_truth: GroundTruth, source: str = "") -> None:
        self.source = source or "the predictions"
        self.by_pair: dict[ImageCategory, list[dict]] = defaultdict(list)
        self.entries: list[dict] = []
        self._mask_areas: list[int] | None = None
        for record in records:
            image = ground_truth.image_number.get(record["image_id"])
            if image is None:
                if record["image_id"] in ground_truth.known_images:
                    continue
                raise DataError(
                    f"{self.source}: a prediction is for image id {record['image_id']!r}, which is "
                    f"not in {ground_truth.source}. Were they made on another data set?"
                )
            category = ground_truth.category_number.get(record["category_id"])
            if category is None:
                raise DataError(
                    f"{self.source}: a prediction for image id {record['image_id']!r} has category "
                    f"{record['category_id']!r}; {ground_truth.source} has the categories "
                    f"{_shorten(ground_truth.category_ids)}."
                )
            entry = {
                "id": len(self.entries) + 1,
                "image_id": image,
                "category_id": category,
                "row": len(self.by_pair[image, category]),
                "record": record,
            }
            self.entries.append(entry)
            self.by_pair[image, category].append(entry)

    def mask_areas(self) -> list[int]:
        """Pixels of each mask, counted once."""
        if self._mask_areas is None:
            masks = [entry["record"]["segmentation"] for entry in self.entries]
            areas: list[int] = []
            for start in range(0, len(masks), _MASKS_PER_CALL):
                areas += mask_util.area(masks[start : start + _MASKS_PER_CALL]).tolist()
            self._mask_areas = areas
        return self._mask_areas

    def most_per_image(self) -> int:
        """The largest number of detections that an image has."""
        counts: dict[int, int] = defaultdict(int)
        for entry in self.entries:
            counts[entry["image_id"]] += 1
        return max(counts.values(), default=0)


def _shorten(ids: list) -> str:
    return ", ".join(map(str, ids[:6])) + (" …" if len(ids) > 6 else "")
