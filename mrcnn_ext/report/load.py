# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Ground truth and results as they are read from files, checked, in the form that COCOeval wants."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as mask_util
from pycocotools.coco import COCO

from ..errors import DataError

__all__ = ["GroundTruth", "Results", "coco_from", "load_ground_truth", "load_results"]


@dataclass
class GroundTruth:
    """A data set.

    Attributes:
        name: shown in the report.
        source: the file.
        image_root: folder of the images; None if there are none.
        images: records by id.
        annotations: with ids from 1 upwards, ``iscrowd``, ``area`` and ``bbox``. COCOeval takes id 0
            for "no match", so the file's own ids are not used.
        categories: as in the file, sorted by id.
        has_masks: every annotation has a segmentation.
        has_keypoints: some annotation has keypoints.
    """

    name: str
    source: str
    image_root: Path | None
    images: dict[int, dict]
    annotations: list[dict]
    categories: list[dict]
    has_masks: bool
    has_keypoints: bool
    _encoded: bool = field(default=False, repr=False)

    @property
    def class_names(self) -> list[str]:
        return [str(c.get("name", c["id"])) for c in self.categories]

    @property
    def num_instances(self) -> int:
        """Without crowds."""
        return sum(not a["iscrowd"] for a in self.annotations)

    def encode_masks(self) -> None:
        """Turn every segmentation into COCO's compressed RLE; polygons are drawn here, once.

        Raises:
            DataError: one cannot be; names the annotation.
        """
        if self._encoded:
            return
        for entry in self.annotations:
            image = self.images[entry["image_id"]]
            try:
                entry["segmentation"] = _to_rle(entry["segmentation"], image)
            except ValueError as error:
                raise DataError(
                    f"{self.source}: image {entry['image_id']}, annotation {entry['file_id']}: {error}."
                ) from error
        self._encoded = True


@dataclass
class Results:
    """One result file.

    Attributes:
        name: shown in the report.
        source: the file.
        detections: with ids from 1 upwards, sorted by image id and then by falling score, which is
            the order COCOeval sees them in; ``bbox``, ``score`` and perhaps ``segmentation`` (RLE)
            and ``keypoints``.
        has_masks: every detection has one; False if there are none.
        has_keypoints: some detection has them.
    """

    name: str
    source: str
    detections: list[dict]
    has_masks: bool
    has_keypoints: bool

    def max_per_image_and_class(self) -> int:
        counts = Counter((d["image_id"], d["category_id"]) for d in self.detections)
        return max(counts.values(), default=0)


def load_ground_truth(
    file: str | os.PathLike, image_root: str | os.PathLike | None = None, name: str | None = None
) -> GroundTruth:
    """Read annotations in COCO's format.

    Raises:
        DataError: the file is missing, is no json, or an entry of it is unusable; names file and id.
    """
    source = str(file)
    content = _read_json(source)
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), list) for key in ("images", "annotations", "categories")
    ):
        raise DataError(
            f"{source}: expected COCO annotations, an object with the lists images, annotations "
            "and categories."
        )
    images = _images(content["images"], source)
    categories = _categories(content["categories"], source)
    known = {c["id"] for c in categories}
    annotations = [_annotation(a, images, known, source) for a in content["annotations"]]
    for number, entry in enumerate(annotations, 1):
        entry["id"] = number
    return GroundTruth(
        name=name or Path(source).name,
        source=source,
        image_root=None if image_root is None else Path(image_root),
        images=images,
        annotations=annotations,
        categories=categories,
        has_masks=bool(annotations) and all(a.get("segmentation") for a in annotations),
        has_keypoints=any(any(a.get("keypoints") or ()) for a in annotations),
    )


def load_results(name: str, results: str | os.PathLike | list[dict], truth: GroundTruth) -> Results:
    """Read results in COCO's format: a list of image_id, category_id, score and bbox or segmentation.

    Args:
        name: what to call them.
        results: a file, or what would be in it.
        truth: whose images and categories they must be about.

    Raises:
        DataError: the file is missing, is no json, or an entry of it is unusable; names file, image
            id and what was expected.
    """
    in_memory = isinstance(results, list)
    source = f"results '{name}'" if in_memory else str(results)
    content = results if in_memory else _read_json(source)
    if not isinstance(content, list):
        raise DataError(f"{source}: expected COCO results, a list of detections.")
    known = {c["id"] for c in truth.categories}
    found = [_detection(d, i, truth.images, known, source) for i, d in enumerate(content)]
    # Stable, as COCOeval's own sorting is: equal scores keep the file's order.
    found.sort(key=lambda d: (d["image_id"], -d["score"]))
    for number, entry in enumerate(found, 1):
        entry["id"] = number
    return Results(
        name=name,
        source="in memory" if in_memory else source,
        detections=found,
        has_masks=bool(found) and all("segmentation" in d for d in found),
        has_keypoints=any("keypoints" in d for d in found),
    )


def coco_from(truth: GroundTruth, annotations: list[dict]) -> COCO:
    """pycocotools' index of annotations or detections; it changes them, so they are copied."""
    coco = COCO()
    coco.dataset = {
        "images": list(truth.images.values()),
        "annotations": [dict(a) for a in annotations],
        "categories": truth.categories,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


# ----------------------------------------------------------------------------------------- entries


def _read_json(source: str):
    try:
        text = Path(source).read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{source} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{source} is not json: {error}.") from error
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{source} is not json, or not all of it is there: {error}.") from error


def _images(entries: list, source: str) -> dict[int, dict]:
    images: dict[int, dict] = {}
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict) or "id" not in entry:
            raise DataError(f"{source}: images[{index}] has no id.")
        if entry["id"] in images:
            raise DataError(f"{source}: two images have the id {entry['id']}.")
        if not all(_is_whole(entry.get(key)) and entry[key] > 0 for key in ("height", "width")):
            raise DataError(f"{source}: image {entry['id']} has no height and width.")
        images[entry["id"]] = entry
    if not images:
        raise DataError(f"{source}: there are no images.")
    if len({type(image_id) for image_id in images}) > 1:
        raise DataError(f"{source}: some image ids are numbers and some are not.")
    return dict(sorted(images.items()))


def _categories(entries: list, source: str) -> list[dict]:
    if not entries or not all(isinstance(c, dict) and "id" in c for c in entries):
        raise DataError(f"{source}: expected categories with an id each.")
    if len({c["id"] for c in entries}) < len(entries):
        raise DataError(f"{source}: two categories have the same id.")
    return sorted(entries, key=lambda c: c["id"])


def _annotation(entry, images: dict[int, dict], known: set, source: str) -> dict:
    where = f"{source}: annotation {entry.get('id') if isinstance(entry, dict) else entry!r}"
    if not isinstance(entry, dict) or not _among(entry.get("image_id"), images):
        raise DataError(f"{where}: its image_id is not among the images.")
    if not _among(entry.get("category_id"), known):
        raise DataError(f"{where}: its category_id {entry.get('category_id')} is not a category.")
    out = {**entry, "file_id": entry.get("id"), "iscrowd": int(bool(entry.get("iscrowd")))}
    rle = None
    if "bbox" not in out or "area" not in out:
        rle = _annotation_rle(out, images, where)
    if "bbox" not in out:
        out["bbox"] = mask_util.toBbox(rle).tolist()
    if not _is_box(out["bbox"]):
        raise DataError(f"{where}: bbox {out['bbox']} is not x, y, width, height.")
    if "area" not in out:
        box_area = out["bbox"][2] * out["bbox"][3]
        out["area"] = float(box_area if rle is None else mask_util.area(rle))
    return out


def _annotation_rle(entry: dict, images: dict[int, dict], where: str):
    if not entry.get("segmentation"):
        if "bbox" in entry:
            return None
        raise DataError(f"{where} has neither bbox nor segmentation.")
    try:
        return _to_rle(entry["segmentation"], images[entry["image_id"]])
    except ValueError as error:
        raise DataError(f"{where}: {error}.") from error


def _detection(entry, index: int, images: dict[int, dict], known: set, source: str) -> dict:
    if not isinstance(entry, dict):
        raise DataError(f"{source}: result {index} is no object, but {entry!r:.60}.")
    image_id: Any = entry.get("image_id")
    category_id: Any = entry.get("category_id")
    where = f"{source}: result {index} (image id {image_id})"
    if not _among(image_id, images):
        raise DataError(f"{where}: there is no such image in the ground truth.")
    if not _among(category_id, known):
        some = ", ".join(str(k) for k in sorted(known)[:8]) + (", …" if len(known) > 8 else "")
        raise DataError(
            f"{where}: category id {category_id} is unknown; the ground truth has {some}."
        )
    if not _is_finite(entry.get("score")):
        raise DataError(f"{where}: score {entry.get('score')!r} is not a finite number.")
    out: dict = {"image_id": image_id, "category_id": category_id, "score": float(entry["score"])}
    out["iscrowd"] = 0
    if entry.get("segmentation"):
        try:
            out["segmentation"] = _to_rle(entry["segmentation"], images[image_id])
        except ValueError as error:
            raise DataError(f"{where}: {error}.") from error
    if "bbox" in entry:
        if not _is_box(entry["bbox"]):
            raise DataError(f"{where}: bbox {entry['bbox']} is not x, y, width, height.")
        out["bbox"] = [float(v) for v in entry["bbox"]]
    elif "segmentation" in out:
        out["bbox"] = mask_util.toBbox(out["segmentation"]).tolist()
    else:
        raise DataError(f"{where} has neither bbox nor segmentation.")
    points = entry.get("keypoints")
    if points:
        if len(points) % 3 or not all(_is_finite(v) for v in points):
            raise DataError(f"{where}: keypoints are not x, y, score for each.")
        out["keypoints"] = points
    return out


def _to_rle(segmentation, image: Mapping) -> dict:
    """Compressed RLE of polygons or of either kind of RLE.

    Raises:
        ValueError: it is none of them, is broken, or has another size than the image.
    """
    size = [image["height"], image["width"]]
    try:
        if isinstance(segmentation, list):
            polygons = [p for p in segmentation if len(p) >= 6]
            if not polygons:
                return mask_util.encode(np.zeros(size, dtype=np.uint8, order="F"))
            return mask_util.merge(mask_util.frPyObjects(polygons, *size))
        rle = segmentation
        if list(rle["size"]) != size:
            raise ValueError(f"a mask has (height, width) {rle['size']}, its image {size}")
        if isinstance(rle["counts"], list):
            return mask_util.frPyObjects(rle, *size)
        mask_util.area(rle)  # raises for a string that is no RLE
        return {"size": size, "counts": rle["counts"]}
    except ValueError as error:
        raise ValueError(str(error).rstrip(".")) from error
    except Exception as error:  # pycocotools raises what comes
        raise ValueError(f"its segmentation is neither polygons nor RLE ({error})") from error


def _among(value, known) -> bool:
    return isinstance(value, (int, str)) and value in known


def _is_finite(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_box(value) -> bool:
    is_four = isinstance(value, (list, tuple)) and len(value) == 4
    return is_four and all(_is_finite(v) for v in value) and min(value[2:]) >= 0
