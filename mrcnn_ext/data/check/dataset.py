# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Find all problems of a data set in COCO's json format.

``python -m mrcnn_ext.data.check`` is the command line of this module.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from statistics import median

from ...coco.read import encoding_problem, read_coco
from ...coco.rle import is_rle_list
from ...coco.values import is_id
from ...errors import DataError
from ...messages import describe, same_but_for_case
from ...skeletons import Skeleton
from ...skeletons.from_json import category_skeleton
from ..image_file import ImageReader
from .against_config import check_metadata
from .annotation import box_findings, keypoint_findings, mask_findings
from .images import duplicates, image_problems, image_size
from .patterns import find_patterns
from .problem import Finding, Problem, Progress

__all__ = ["check_coco", "check_coco_json", "check_file", "count_coco"]

_STEP = 1024  # annotations between two calls of ``progress``


def check_coco_json(
    json_file: str | os.PathLike,
    image_root: str | os.PathLike,
    *,
    decode_images: bool = True,
    metadata=None,
    progress: Progress | None = None,
) -> list[Problem]:
    """Find all problems of a data set in COCO's format.

    Args:
        json_file: annotations; any path Detectron2's ``PathManager`` opens.
        image_root: the folder that ``file_name`` of the images is relative to.
        decode_images: decode every image, which finds truncated files; otherwise only the size in
            their headers is compared.
        metadata: the data set's entry of ``MetadataCatalog``; its class and keypoint names are
            compared with those of the json.
        progress: called now and then as ``progress("images", done, total)``, then with
            "annotations".

    Returns:
        the problems, in the order of the file; empty for a data set without fault.

    Raises:
        DataError: the json cannot be read, or is no COCO annotation file.
    """
    data = read_coco(json_file, annotated=False)
    return check_file(json_file) + check_coco(
        data, image_root, decode_images=decode_images, metadata=metadata, progress=progress
    )


def check_file(json_file: str | os.PathLike) -> list[Problem]:
    """Problems of a COCO json as a file."""
    text = encoding_problem(json_file)
    return [Problem("error", "json-encoding", None, None, text)] if text else []


def check_coco(
    data: dict,
    image_root: str | os.PathLike,
    *,
    decode_images: bool = True,
    metadata=None,
    progress: Progress | None = None,
    reader: ImageReader | None = None,
) -> list[Problem]:
    """:func:`check_coco_json` of a file that :func:`~mrcnn_ext.coco.read.read_coco` has read.

    Args:
        reader: of a config; where it chooses bands, images are read by it.
    """
    report = progress or (lambda stage, done, total: None)
    problems = list(_categories(data["categories"]))
    if metadata is not None:
        problems += check_metadata(data, metadata)
    problems += image_problems(data["images"], os.fspath(image_root), decode_images, report, reader)
    annotations = _Annotations(data, metadata)
    problems += find_patterns(data, annotations.sizes)
    problems += annotations.problems(report)
    return problems


def count_coco(data: dict) -> dict[str, float]:
    """Numbers of images, annotations, categories, ... of a file that was read.

    Returns:
        dict with "images", "annotations", "categories", "crowd", "images_without_annotations" and
        "instances_min", "instances_median", "instances_max": of crowd-free instances an image.
    """
    images = {_key(i) for i in _dicts(data["images"])}
    annotations = list(_dicts(data["annotations"]))
    crowd = sum(a.get("iscrowd") == 1 for a in annotations)
    annotated = {_key(a, "image_id") for a in annotations}
    instances = Counter(_key(a, "image_id") for a in annotations if a.get("iscrowd", 0) == 0)
    numbers = [instances[key] for key in images] or [0]
    return {
        "images": len(data["images"]),
        "annotations": len(data["annotations"]),
        "categories": len(data["categories"]),
        "crowd": crowd,
        "images_without_annotations": len(images - annotated),
        "instances_min": min(numbers),
        "instances_median": median(numbers),
        "instances_max": max(numbers),
    }


def _dicts(items: list) -> Iterator[dict]:
    return (item for item in items if isinstance(item, dict))


def _key(record: dict, name: str = "id") -> Hashable:
    """The id, or None where it is none: json has values that no dict takes as a key."""
    value = record.get(name)
    return value if is_id(value) else None


# ------------------------------------------------------------------------------------- categories


def _categories(categories: list) -> Iterator[Problem]:
    def problem(kind: str, message: str, severity: str = "error") -> Problem:
        return Problem(severity, kind, None, None, message)

    if not categories:
        yield problem("category-format", "there are no categories")
    for index, category in enumerate(categories):
        if not isinstance(category, dict) or _key(category) is None or "name" not in category:
            text = f"entry {index} of categories is not a dict with an id and a name"
            yield problem("category-format", text)
        else:
            if not isinstance(category["name"], (str, int, float)) or category["name"] == "":
                text = f"the name of category {describe(category['id'])} is "
                text += f"{describe(category['name'])}, expected a text"
                yield problem("category-format", text)
            yield from _skeleton(category, problem)
    for value in duplicates([_key(c) for c in _dicts(categories)]):
        yield problem("category-id-duplicate", f"several categories have the id {describe(value)}")
    for value in duplicates([_key(c, "name") for c in _dicts(categories)]):
        text = f"several categories have the name {describe(value)}"
        yield problem("category-name-duplicate", text, "warning")
    for group in same_but_for_case([str(c.get("name")) for c in _dicts(categories)]):
        text = (
            f"the categories {', '.join(map(describe, group))} differ in capitals or blanks alone; "
        )
        yield problem("category-name-alike", f"{text}are they one?", "warning")


def _skeleton(category: dict, problem: Callable[..., Problem]) -> Iterator[Problem]:
    name = category["name"]
    keypoints, skeleton = (category.get(key) or [] for key in ("keypoints", "skeleton"))
    if not isinstance(keypoints, list) or not isinstance(skeleton, list):
        text = f"category {describe(name, 200)}: keypoints or skeleton is not a list"
        yield problem("category-format", text)
        return
    for value in duplicates([str(k) for k in keypoints]):
        text = f"category {describe(name, 200)} has several keypoints of the name {describe(value)}"
        yield problem("keypoint-name-duplicate", text)
    for edge in skeleton:
        ends = edge if isinstance(edge, list) else []
        if len(ends) != 2 or not all(isinstance(k, int) and 1 <= k <= len(keypoints) for k in ends):
            text = f"category {describe(name, 200)}: skeleton has {describe(edge)}; two numbers from 1 "
            text += f"to {len(keypoints)} (counted from 1) are expected"
            yield problem("skeleton-index", text)
            return
    try:
        fields = category_skeleton(category)
        if fields is not None:
            Skeleton(**fields)
    except DataError as error:
        if not duplicates([str(k) for k in keypoints]):  # which has been said
            yield problem("skeleton", str(error))


# ------------------------------------------------------------------------------------ annotations


_RLE_LIST = (
    "segmentation is a list of RLE, which Detectron2 drops with the instance: name the json in "
    "MRCNN_EXT.DATA.DATASETS (or mrcnn_ext.data.register_coco), which unites them, or write one RLE"
)
_STACK = (
    ": Detectron2 cannot stack them (for keypoints of several classes, register the json by "
    "MRCNN_EXT.POSE.DATASETS)"
)


class _Annotations:
    """What is known of all annotations together, and the checks of each."""

    def __init__(self, data: dict, metadata=None):
        # This package's loader gives all instances the keypoints of all classes, and mends what
        # Detectron2's drops.
        self.laid_out = metadata is not None and metadata.get("mrcnn_ext_skeletons") is not None
        self.mended = metadata is not None and metadata.get("mrcnn_ext_mended", False)
        self.annotations: list = data["annotations"]
        self.sizes = {_key(i): image_size(i) for i in _dicts(data["images"])}
        self.keypoints = {
            _key(c): len(c["keypoints"]) if isinstance(c.get("keypoints"), list) else None
            for c in _dicts(data["categories"])
        }
        instances = [a for a in _dicts(self.annotations) if a.get("iscrowd", 0) == 0]
        self.polygons = sum(isinstance(a.get("segmentation"), list) for a in instances)
        self.rles = sum(
            isinstance(a.get("segmentation"), dict) or is_rle_list(a.get("segmentation"))
            for a in instances
        )
        self.polygons -= sum(is_rle_list(a.get("segmentation")) for a in instances)
        # Boxes only is a data set, too: a mask is missed where other instances have one.
        self.has_masks = any(a.get("segmentation") for a in instances)
        self.with_keypoints = {_key(a, "image_id") for a in instances if a.get("keypoints")}
        lengths = Counter(n for n in map(self._length, _dicts(self.annotations)) if n)
        self.length = lengths.most_common(1)[0][0] if lengths else 0

    def _length(self, annotation: dict) -> int:
        """Length of ``keypoints`` where it is right by itself, else 0."""
        keypoints = annotation.get("keypoints")
        if not isinstance(keypoints, list) or len(keypoints) % 3:
            return 0
        expected = self.keypoints.get(_key(annotation, "category_id"))
        return len(keypoints) if expected in (None, 0, len(keypoints) // 3) else 0

    def problems(self, report: Progress) -> Iterator[Problem]:
        total = len(self.annotations)
        for value in duplicates([_key(a) for a in _dicts(self.annotations)]):
            text = f"several annotations have id {value}; Detectron2 refuses to load the file"
            yield Problem("error", "annotation-id-duplicate", None, value, text)
        if self.polygons and self.rles:
            yield self._mixed()
        for index, annotation in enumerate(self.annotations):
            if not isinstance(annotation, dict):
                text = f"an entry of annotations is {annotation!r:.60}, not a dict"
                yield Problem("error", "annotation-format", None, None, text)
                continue
            for severity, kind, message in self._findings(annotation):
                ids = annotation.get("image_id"), annotation.get("id")
                yield Problem(severity, kind, *ids, message)
            if index % _STEP == 0 or index + 1 == total:
                report("annotations", index + 1, total)

    def _mixed(self) -> Problem:
        text = (
            f"{self.polygons} instances have polygons, {self.rles} have RLE masks: training with "
            "masks needs INPUT.MASK_FORMAT 'bitmask' (the default, 'polygon', cannot use RLE)"
        )
        return Problem("warning", "polygon-rle-mixed", None, None, text)

    def _findings(self, annotation: dict) -> Iterator[Finding]:
        yield from self._ids(annotation)
        size = self.sizes.get(_key(annotation, "image_id"))
        yield from box_findings(annotation, size)
        yield from self._crowd(annotation)
        yield from self._area(annotation)
        if annotation.get("segmentation"):
            yield from mask_findings(annotation, size)
            if not self.mended and is_rle_list(annotation["segmentation"]):
                yield "error", "rle-list", _RLE_LIST
        elif self.has_masks and annotation.get("iscrowd", 0) == 0:
            there = annotation.get("segmentation") is not None
            kind = "segmentation-empty" if there else "segmentation-missing"
            text = f"segmentation is {'empty' if there else 'missing'}, other instances have one"
            text += (
                "; training and evaluation of masks need MRCNN_EXT.DATA.BOXES_ONLY True, or a mask"
            )
            yield "error", kind, text
        yield from self._keypoints(annotation, size)

    def _ids(self, annotation: dict) -> Iterator[Finding]:
        annotation_id = _key(annotation)
        if annotation_id is None:
            yield "error", "annotation-id-missing", "an annotation has no id"
        elif annotation_id == 0:
            text = "the id is 0, which COCO's evaluation takes for 'not matched'; count from 1"
            yield "warning", "annotation-id-zero", text
        if _key(annotation, "image_id") not in self.sizes:
            text = f"no image has the id {describe(annotation.get('image_id'))}"
            yield "error", "annotation-image", text
        if _key(annotation, "category_id") not in self.keypoints:
            text = f"no category has the id {describe(annotation.get('category_id'))}"
            yield "error", "annotation-category", text
        if annotation.get("ignore", 0) != 0:
            text = "'ignore' is set; Detectron2 refuses to load that (iscrowd is what it knows)"
            yield "error", "annotation-ignore", text

    def _crowd(self, annotation: dict) -> Iterator[Finding]:
        crowd = annotation.get("iscrowd")
        if crowd is None and "iscrowd" in annotation:
            text = "iscrowd is null: Detectron2's training drops the object; write 0"
            if self.mended:
                text = "iscrowd is null, which is taken for 0"
            yield "warning" if self.mended else "error", "iscrowd-null", text
        elif crowd is None:
            yield "warning", "iscrowd-missing", "there is no iscrowd; COCO's evaluation needs it"
        elif crowd not in (0, 1):
            yield "error", "iscrowd-value", f"iscrowd is {describe(crowd)}, neither 0 nor 1"
        elif crowd == 1 and isinstance(annotation.get("segmentation") or None, list):
            text = "a crowd region (iscrowd 1) has polygons; COCO has RLE there. Is it one object?"
            yield "warning", "crowd-polygon", text

    def _area(self, annotation: dict) -> Iterator[Finding]:
        area = annotation.get("area")
        if area is None and "area" not in annotation:
            text = "there is no area; COCO's evaluation by object size needs it"
            yield "warning", "area-missing", text
        elif not isinstance(area, (int, float)) or not 0 <= area < float("inf"):
            yield "error", "area-value", f"area is {describe(area)}, not a number of pixels"

    def _keypoints(self, annotation: dict, size) -> Iterator[Finding]:
        if not annotation.get("keypoints"):
            crowd = annotation.get("iscrowd", 0) != 0  # training never sees those
            misses = not self.laid_out and _key(annotation, "image_id") in self.with_keypoints
            if not crowd and misses:
                text = "keypoints is missing, but other instances of this image have it"
                yield "error", "keypoints-missing", text + _STACK
            return
        expected = self.keypoints.get(_key(annotation, "category_id"))
        yield from keypoint_findings(annotation, expected, size)
        length = self._length(annotation)
        if length and length != self.length and not self.laid_out:
            text = f"keypoints has {length} numbers, most have {self.length}"
            yield "error", "keypoints-mixed", text + _STACK
