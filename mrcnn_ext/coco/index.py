# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Ground truth and detections of one evaluation, by image and category."""

from __future__ import annotations

import copy
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from pycocotools.coco import COCO

from ..errors import DataError
from ..messages import describe, shorten
from .read import check_entries, read_coco
from .rle import box_rle, rle_areas, rle_box, to_rle

__all__ = ["Detections", "GroundTruth", "ImageCategory", "has_mask", "load_ground_truth"]

# Number of an image, number of a category: both count from 1, in the order of the sorted ids. That
# is the order in which pycocotools takes them, which decides between equal scores.
ImageCategory = tuple[int, int]


class GroundTruth:
    """A COCO data set, numbered anew; its own dicts are left as they are.

    Annotations count from 1, too: to pycocotools, an object with id 0 is never found. Those of other
    images or of unknown categories are left out, as pycocotools does. A bbox that is missing is the
    mask's, an area that is missing the mask's or, without one, the box's.

    Attributes:
        source: name of the json, for messages.
        name: what to call the data set; the json's file name by default.
        image_root: folder of the images; None if it is not known.
        known_images: by id, all images of the json.
        image_ids: ids of the images to evaluate, sorted; image number ``n`` has ``image_ids[n - 1]``.
        images: their records, in the same order.
        image_number: id -> number.
        category_ids, categories, category_number: likewise.
        objects: one dict an annotation, sorted by image: "id" (from 1; ``objects[id - 1]``),
            "image_id" and "category_id" (numbers), "area", "iscrowd" (0 or 1), "bbox" (XYWH), "row"
            (its place in ``by_pair``), "annotation" (the json's own).
        by_pair: the same dicts by (image number, category number).
    """

    def __init__(
        self,
        content: Mapping | COCO,
        image_ids: Iterable | None = None,
        source: str = "",
        *,
        name: str = "",
        image_root: str | os.PathLike | None = None,
        check_rles: bool = True,
    ) -> None:
        """
        Args:
            content: of the json; or pycocotools' index of it.
            image_ids: evaluate these images alone; None for all.
            source, name, image_root: see the attributes.
            check_rles: decode compressed RLEs to find damage, which takes about as long as matching.

        Raises:
            DataError: one of ``image_ids`` is not in the json, or an annotation has neither bbox nor
                mask.
        """
        self.source = source or "the ground truth"
        self.name = name or Path(self.source).name
        self.image_root = None if image_root is None else Path(image_root)
        self._whole_paths = image_root == ""  # a registered data set's file names may be these
        content = content.dataset if isinstance(content, COCO) else content
        self.known_images = {image["id"]: image for image in content["images"]}
        chosen = self.known_images if image_ids is None else list(image_ids)
        for image_id in chosen:
            if image_id not in self.known_images:
                raise DataError(f"{self.source}: there is no image with id {describe(image_id)}.")
        self.image_ids = sorted(set(chosen))
        self.images = [self.known_images[i] for i in self.image_ids]
        self.image_number = {image_id: n for n, image_id in enumerate(self.image_ids, 1)}
        categories = {category["id"]: category for category in content["categories"]}
        self.category_ids = sorted(categories)
        self.categories = [categories[c] for c in self.category_ids]
        self.category_number = {c: n for n, c in enumerate(self.category_ids, 1)}
        self.by_pair: dict[ImageCategory, list[dict]] = defaultdict(list)
        self.objects: list[dict] = []
        self._rles: dict[int, dict] = {}
        self._check_rles = check_rles
        self._regions: dict[int, dict] | None = None  # of for_masks() alone
        self._for_masks: GroundTruth | None = None
        by_image = defaultdict(list)
        for annotation in content["annotations"]:
            by_image[annotation["image_id"]].append(annotation)
        for image_id in self.image_ids:
            for annotation in by_image[image_id]:
                if annotation["category_id"] in self.category_number:
                    self._add(annotation)

    def _add(self, annotation: dict) -> None:
        pair = (
            self.image_number[annotation["image_id"]],
            self.category_number[annotation["category_id"]],
        )
        others = self.by_pair[pair]
        entry: dict = {
            "id": len(self.objects) + 1,
            "image_id": pair[0],
            "category_id": pair[1],
            "area": annotation.get("area"),
            "iscrowd": int(bool(annotation.get("iscrowd"))),
            "bbox": annotation.get("bbox"),
            "row": len(others),
            "annotation": annotation,
        }
        if entry["bbox"] is None:
            if not annotation.get("segmentation"):
                raise DataError(f"{self.describe(entry)} has neither bbox nor segmentation.")
            entry["bbox"] = rle_box(self.rle(entry))
        if entry["area"] is None:
            if annotation.get("segmentation"):
                (entry["area"],) = rle_areas([self.rle(entry)])
            else:
                entry["area"] = entry["bbox"][2] * entry["bbox"][3]
        self.objects.append(entry)
        others.append(entry)

    @property
    def class_names(self) -> list[str]:
        """Names of the categories, in the order of their numbers."""
        return [str(c.get("name", c["id"])) for c in self.categories]

    @property
    def num_instances(self) -> int:
        """Objects without crowds."""
        return sum(not entry["iscrowd"] for entry in self.objects)

    @property
    def has_masks(self) -> bool:
        """There are objects, and all of them have a segmentation."""
        return bool(self.objects) and all(map(has_mask, self.objects))

    @property
    def has_regions(self) -> bool:
        """:attr:`has_masks`; in :meth:`for_masks`, some object has a segmentation."""
        return self.has_masks or (self._regions is not None and any(map(has_mask, self.objects)))

    @property
    def num_without_mask(self) -> int:
        """Objects that have a box only, without crowds."""
        return sum(not entry["iscrowd"] for entry in self.objects if not has_mask(entry))

    def for_masks(self) -> GroundTruth:
        """The same data set as masks are measured on it: an object that has only a box is a crowd.

        As in a crowd, whose region is the object's box then, a predicted mask in it is neither right
        nor wrong, and nothing there is missed. Numbers, ids and rows stay the same.

        Returns:
            itself, if every object has a mask.
        """
        if self._for_masks is None:
            self._for_masks = self if all(map(has_mask, self.objects)) else self._with_regions()
        return self._for_masks

    def _with_regions(self) -> GroundTruth:
        truth = copy.copy(self)
        truth.objects = [e if has_mask(e) else {**e, "iscrowd": 1} for e in self.objects]
        truth.by_pair = defaultdict(list)
        for entry in truth.objects:
            truth.by_pair[entry["image_id"], entry["category_id"]].append(entry)
        truth._regions, truth._for_masks = {}, truth
        return truth

    @property
    def has_keypoints(self) -> bool:
        """Some object has keypoints."""
        return any(any(entry["annotation"].get("keypoints") or ()) for entry in self.objects)

    def keypoint_counts(self) -> dict[int, int]:
        """Number of keypoints by the number of the category, of those that have any.

        Raises:
            DataError: objects of one category have different numbers; names the annotation.
        """
        counts: dict[int, int] = {}
        for entry in self.objects:
            number = len(entry["annotation"].get("keypoints") or ()) // 3
            if number and counts.setdefault(entry["category_id"], number) != number:
                raise DataError(
                    f"{self.describe(entry)} has {number} keypoints, but others of its category have "
                    f"{counts[entry['category_id']]}."
                )
        return counts

    @property
    def sizes(self) -> dict[int | str, tuple[int, int]]:
        """(height, width) of all images of the json, by id."""
        return {i: (image["height"], image["width"]) for i, image in self.known_images.items()}

    def size(self, image_number: int) -> tuple[int, int]:
        """Height and width of an image."""
        image = self.images[image_number - 1]
        return image["height"], image["width"]

    def image_file(self, image_number: int) -> Path | None:
        """The file of an image; None without an ``image_root``.

        Raises:
            DataError: its file_name is not that of a file below ``image_root``; names the image.
        """
        if self.image_root is None:
            return None
        name = self.images[image_number - 1].get("file_name")
        file = self.image_root / str(name)
        root = os.path.join(os.path.abspath(self.image_root), "")
        inside = self._whole_paths or os.path.abspath(file).startswith(root)
        if not isinstance(name, str) or "\0" in name or not inside:
            raise DataError(
                f"{self.source}: image {self.image_ids[image_number - 1]!r:.60} has the file_name "
                f"{describe(name)}, expected a file below the folder of images {self.image_root}."
            )
        return file

    def describe(self, entry: dict) -> str:
        """Where an object is, for messages: file, image and annotation."""
        image_id = self.image_ids[entry["image_id"] - 1]
        return f"{self.source}: image {image_id}, annotation {entry['annotation'].get('id')}"

    def check_mask(self, image_number: int, rle: dict) -> None:
        """Refuse a predicted mask of another size, which pycocotools compares without complaint.

        Raises:
            DataError: the mask's size is not that of its image.
        """
        height, width = self.size(image_number)
        if tuple(rle["size"]) != (height, width):
            raise DataError(
                f"a predicted mask for image id {describe(self.image_ids[image_number - 1])} has "
                f"{rle['size'][1]} x {rle['size'][0]} pixels, but the image in {self.source} has "
                f"{width} x {height}."
            )

    def rle(self, entry: dict) -> dict:
        """The mask of an object as compressed RLE, made once; its box in :meth:`for_masks`.

        Raises:
            DataError: it has none, or it is damaged; names the annotation.
        """
        if self._regions is not None and not has_mask(entry):
            if entry["id"] not in self._regions:
                size = self.size(entry["image_id"])
                self._regions[entry["id"]] = box_rle(entry["bbox"], *size)
            return self._regions[entry["id"]]
        if entry["id"] not in self._rles:
            segmentation = entry["annotation"].get("segmentation")
            if not segmentation:
                raise DataError(
                    f"{self.describe(entry)} has no 'segmentation', which evaluating masks needs; "
                    "boxes_only (--boxes-only) leaves such objects out."
                )
            try:
                if not self._check_rles and _is_compressed(segmentation):
                    rle = segmentation
                else:
                    rle = to_rle(segmentation, *self.size(entry["image_id"]))
            except ValueError as error:
                raise DataError(f"{self.describe(entry)}: {error}.") from error
            self._rles[entry["id"]] = rle
        return self._rles[entry["id"]]


def has_mask(entry: dict) -> bool:
    """Whether an object of :class:`GroundTruth` has a segmentation, and not only a box."""
    return bool(entry["annotation"].get("segmentation"))


def _is_compressed(segmentation) -> bool:
    return isinstance(segmentation, dict) and isinstance(segmentation.get("counts"), (str, bytes))


def load_ground_truth(
    path: str | os.PathLike,
    image_ids: Iterable | None = None,
    *,
    name: str = "",
    image_root: str | os.PathLike | None = None,
) -> GroundTruth:
    """Read a COCO annotation file that is to be evaluated on.

    Args:
        path: of the json; any path that Detectron2's ``PathManager`` opens.
        image_ids, name, image_root: see :class:`GroundTruth`.

    Raises:
        DataError: the file cannot be read, or an entry of it is unusable; names file and id.
    """
    content = read_coco(path)
    check_entries(content, str(path))
    return GroundTruth(content, image_ids, str(path), name=name, image_root=image_root)


class Detections:
    """Records in COCO's result format, numbered as the ground truth is.

    Attributes:
        source: name of the results' file, for messages.
        name: what to call them; the file's name by default.
        entries: one dict a record: "id" (from 1; ``entries[id - 1]``), "image_id" and "category_id"
            (numbers), "row" (its place in ``by_pair``), "record".
        by_pair: the same dicts by (image number, category number).
    """

    def __init__(
        self, records: list[dict], ground_truth: GroundTruth, source: str = "", *, name: str = ""
    ) -> None:
        """
        Args:
            records: dicts with "image_id", "category_id" (the json's ids), "score" and "bbox"
                (XYWH), "segmentation" or "keypoints"; "mask_score" optionally.
            ground_truth: what they are compared with. Records of images that it leaves out are
                dropped.
            source, name: see the attributes.

        Raises:
            DataError: an image or category that the ground truth does not know.
        """
        self.source = source or "the predictions"
        self.name = name or Path(self.source).name
        self.by_pair: dict[ImageCategory, list[dict]] = defaultdict(list)
        self.entries: list[dict] = []
        self._mask_areas: list[int] | None = None
        for record in records:
            image = ground_truth.image_number.get(record["image_id"])
            if image is None:
                if record["image_id"] in ground_truth.known_images:
                    continue
                raise DataError(
                    f"{self.source}: a prediction is for image id "
                    f"{describe(record['image_id'])}, which is not in {ground_truth.source}. Were "
                    "they made on another data set?"
                )
            category = ground_truth.category_number.get(record["category_id"])
            if category is None:
                raise DataError(
                    f"{self.source}: a prediction for image id "
                    f"{describe(record['image_id'])} has category "
                    f"{describe(record['category_id'])}; {ground_truth.source} has the categories "
                    f"{shorten(ground_truth.category_ids)}."
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

    @property
    def has_masks(self) -> bool:
        """There are detections, and all of them have a mask."""
        return bool(self.entries) and all("segmentation" in e["record"] for e in self.entries)

    @property
    def has_keypoints(self) -> bool:
        """Some detection has keypoints."""
        return any(entry["record"].get("keypoints") for entry in self.entries)

    def mask_areas(self) -> list[int]:
        """Pixels of each mask, counted once."""
        if self._mask_areas is None:
            self._mask_areas = rle_areas([e["record"]["segmentation"] for e in self.entries])
        return self._mask_areas

    def most_per_image(self) -> int:
        """The largest number of detections that an image has."""
        return max(Counter(entry["image_id"] for entry in self.entries).values(), default=0)

    def most_per_pair(self) -> int:
        """The largest number of detections that an image has of one category."""
        return max(map(len, self.by_pair.values()), default=0)
