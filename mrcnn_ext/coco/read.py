# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Read json files and COCO annotation files; say clearly why one cannot be used."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable

from detectron2.utils.file_io import PathManager

from ..errors import DataError
from ..files import is_special
from ..messages import describe, shorten
from .rle import FARTHEST, is_rle_list
from .values import is_box, is_finite, is_id, is_whole

__all__ = ["check_entries", "class_names", "differing_classes", "encoding_problem"]
__all__ += ["missing_masks", "read_categories"]
__all__ += ["read_coco", "read_json", "refuse_special"]

_LISTS = ("images", "annotations", "categories")
_CATEGORIES = re.compile(rb'"categories"\s*:\s*(?=\[)')
_CATEGORY_BYTES = 16 << 20
_HALF_PAIR = re.compile(rb"\\u[dD][89a-fA-F]")
_MOST_PIXELS = 2**32 - 1  # as runs of RLE count them
_MIXED = ": segmentation mixes RLE and polygons"
_BOX = "four finite numbers: x, y, width and height, which are not negative"


def read_json(path: str | os.PathLike):
    """The content of a json file; any path that Detectron2's ``PathManager`` opens.

    Raises:
        DataError: it cannot be read or is not valid json; names the file.
    """
    refuse_special(path)
    try:
        with PathManager.open(os.fspath(path), "rb") as file:  # json finds the encoding
            text = file.read()
        content = json.loads(text)
        if _HALF_PAIR.search(text):  # of UTF-16; most often there are both halves
            json.dumps(content, ensure_ascii=False).encode()
        return content
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start])
        raise DataError(f"{path}: a text in it has {half}, which is no character.") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from error
    except MemoryError as error:
        raise DataError(f"{path}: is larger than the memory that is left.") from error
    except (ValueError, RecursionError) as error:  # of json and of unicode; nested too deeply
        raise DataError(
            f"{path}: is not valid json, or not all of it is there: {error}."
        ) from error


def refuse_special(path: str | os.PathLike) -> None:
    """
    Raises:
        DataError: the path is a pipe, socket or device.
    """
    if is_special(path):
        raise DataError(f"{path}: is a pipe, socket or device, expected a file.")


def encoding_problem(path: str | os.PathLike) -> str:
    """Why Detectron2, which reads UTF-8 alone, cannot read a json that :func:`read_json` can; or ""."""
    refuse_special(path)
    with PathManager.open(os.fspath(path), "rb") as file:
        encoding = json.detect_encoding(file.read(4))
    if encoding == "utf-8":
        return ""
    what = "begins with a byte order mark" if encoding == "utf-8-sig" else f"is in {encoding}"
    return f"the file {what}, which Detectron2 does not read; save it as UTF-8 without such a mark"


def read_coco(path: str | os.PathLike, *, annotated: bool = True) -> dict:
    """Read a COCO annotation file; its entries may still be anything, see :func:`check_entries`.

    Args:
        path: any path that Detectron2's ``PathManager`` opens.
        annotated: False takes a test set, too, whose json has no "annotations"; they are then empty.

    Returns:
        dict with the lists "images", "annotations" and "categories".

    Raises:
        DataError: it cannot be read, or one of the lists is missing; names the file.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        hint = " (detection results have this form)" if isinstance(content, list) else ""
        raise DataError(
            f"{path}: is no COCO data set: it holds a {type(content).__name__}{hint}, expected an "
            f"object with the lists {', '.join(_LISTS)}."
        )
    if not annotated:
        content.setdefault("annotations", [])
    _check_lists(content, str(path))
    return content


def _check_lists(content: dict, source: str) -> None:
    for key in _LISTS:
        if not isinstance(content.get(key), list):
            what = "is not a list" if key in content else "is missing"
            raise DataError(f"{source}: is no COCO data set: '{key}' {what}.")


def read_categories(path: str | os.PathLike) -> list:
    """The "categories" of a COCO file, found without parsing the rest of it where that can be.

    Raises:
        DataError: as :func:`read_coco`.
    """
    refuse_special(path)
    try:
        with PathManager.open(os.fspath(path), "rb") as file:
            content = file.read()
        places = [match.end() for match in _CATEGORIES.finditer(content)]
        if len(places) == 1:  # else one of them is within an entry, perhaps
            text = content[places[0] : places[0] + _CATEGORY_BYTES].decode("utf-8", "ignore")
            return json.JSONDecoder().raw_decode(text)[0]
    except (OSError, ValueError, RecursionError, MemoryError):
        pass  # reading all of it says what is wrong, if anything is
    return read_coco(path, annotated=False)["categories"]


def class_names(categories: list) -> list:
    """Names of the categories in the order of their ids, in which Detectron2 numbers the classes."""
    known = [c for c in categories if isinstance(c, dict) and is_id(c.get("id"))]
    texts = {isinstance(c["id"], str) for c in known}
    known.sort(key=lambda c: str(c["id"]) if len(texts) > 1 else c["id"])
    return [c.get("name") for c in known]


def differing_classes(first, second) -> str:
    """How two lists of class names differ; empty if they do not."""
    if list(first) == list(second):
        return ""
    if sorted(first) == sorted(second):
        place = next(i for i, (a, b) in enumerate(zip(first, second)) if a != b)
        return f"number {place} (by category id) is {second[place]!r}, and {first[place]!r} there"
    missing, more = ([n for n in a if n not in b] for a, b in ((first, second), (second, first)))
    parts = [f"[{shorten(missing)}] are missing"] * bool(missing)
    parts += [f"[{shorten(more)}] are not there"] * bool(more)
    return " and ".join(parts) or "some names are there more often than here"


def check_entries(content: dict, source: str, *, other_images: bool = False) -> None:
    """Refuse a COCO data set that cannot be evaluated or trained on, at its first unusable entry.

    What can be used may still be wrong: ``python -m mrcnn_ext.data.check`` finds all of it.

    Args:
        content: what :func:`read_coco` returned.
        source: name of the file.
        other_images: pass over annotations of images that are not listed, as pycocotools does.

    Raises:
        DataError: names the file, the annotation's and the image's id.
    """
    _check_lists(content, source)
    images = _check_images(content["images"], source)
    known = _check_categories(content["categories"], source)
    for entry in content["annotations"]:
        if other_images and isinstance(entry, dict) and not _among(entry.get("image_id"), images):
            continue
        problem = _annotation_problem(entry, images, known)
        if problem:
            raise DataError(f"{source}: {_place(entry, images)}{problem}.")


def missing_masks(annotations: Iterable) -> str:
    """How many of a data set's annotations have no mask, and which is the first; "" if all have one."""
    entries = list(annotations)
    lacking = [a for a in entries if isinstance(a, dict) and not a.get("segmentation")]
    if not lacking:
        return ""
    image, number = (describe(lacking[0].get(key)) for key in ("image_id", "id"))
    return (
        f"{len(lacking)} of {len(entries)} objects have no segmentation, the first: image {image}, "
        f"annotation {number}"
    )


def _place(entry, images: dict) -> str:
    if not isinstance(entry, dict):
        return f"annotation {describe(entry)}"
    place = f"annotation {describe(entry.get('id'))}"
    image_id = entry.get("image_id")
    return f"image {describe(image_id)}, {place}" if _among(image_id, images) else place


def _check_images(entries: list, source: str) -> dict:
    """(height, width) of each image by id."""
    images = {}
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict) or not is_id(entry.get("id")):
            raise DataError(f"{source}: images[{index}] has no id.")
        if entry["id"] in images:
            raise DataError(f"{source}: two images have the id {entry['id']}.")
        height, width = entry.get("height"), entry.get("width")
        if not (is_whole(height) and height > 0 and is_whole(width) and width > 0):
            raise DataError(
                f"{source}: image {describe(entry['id'])} has no height and width: "
                f"{describe(entry.get('file_name'))} has {describe(height)} and "
                f"{describe(width)}, expected two positive whole numbers."
            )
        if height * width > _MOST_PIXELS:
            raise DataError(
                f"{source}: image {describe(entry['id'])} has {describe(width)} x "
                f"{describe(height)} pixels, more than 32 bits can count."
            )
        images[entry["id"]] = height, width
    if not images:
        raise DataError(f"{source}: there are no images.")
    if len({isinstance(image_id, str) for image_id in images}) > 1:
        raise DataError(f"{source}: some image ids are numbers and some are not.")
    return images


def _check_categories(categories: list, source: str) -> set:
    """Their ids."""
    for index, category in enumerate(categories):
        if not isinstance(category, dict) or not is_id(category.get("id")):
            raise DataError(
                f"{source}: expected categories with an id each; categories[{index}] is "
                f"{describe(category)}."
            )
    if not categories:
        raise DataError(f"{source}: expected categories with an id each; there are none.")
    known = {category["id"] for category in categories}
    if len(known) < len(categories):
        raise DataError(f"{source}: two categories have the same id.")
    if len({isinstance(category_id, str) for category_id in known}) > 1:
        raise DataError(f"{source}: some category ids are numbers and some are not.")
    return known


def _annotation_problem(entry, images: dict, categories: set) -> str | None:
    """What makes an annotation unusable; None if nothing does."""
    if not isinstance(entry, dict):
        return ": its image_id is not among the images"
    if not _among(entry.get("image_id"), images):
        return f": its image_id is not among the images, it is {describe(entry.get('image_id'))}"
    if not _among(entry.get("category_id"), categories):
        return f": its category_id {describe(entry.get('category_id'))} is not a category"
    if "bbox" in entry and not is_box(entry["bbox"]):
        return f": bbox {describe(entry['bbox'])} is not x, y, width, height, {_BOX}"
    if "bbox" not in entry and not entry.get("segmentation"):
        return " has neither bbox nor segmentation"
    if "area" in entry and not (is_finite(entry["area"]) and entry["area"] >= 0):
        return f": area {describe(entry['area'])} is not a number of pixels"
    if entry.get("iscrowd") not in (None, 0, 1):
        return f": iscrowd is {describe(entry['iscrowd'])}, neither 0 nor 1"
    if entry.get("keypoints") and not _are_points(entry["keypoints"]):
        return f": keypoints {describe(entry['keypoints'])} are not three finite numbers each"
    if entry.get("segmentation"):
        return _segmentation_problem(entry["segmentation"], images[entry["image_id"]])
    return None


def _segmentation_problem(segmentation, size: tuple[int, int]) -> str | None:
    """What makes a mask unusable that is there; the runs of RLE are not looked at."""
    if isinstance(segmentation, dict):
        shape = segmentation.get("size")
        if not isinstance(shape, list) or tuple(shape) != size:
            return f": the RLE's size [height, width] is {describe(shape)}, the image's is {list(size)}"
        if not isinstance(segmentation.get("counts"), (list, str)):
            return f": the RLE's counts are {describe(segmentation.get('counts'))}, no list or text"
        return None
    if not isinstance(segmentation, list):
        return f": segmentation is {describe(segmentation)}, neither a list of polygons nor an RLE"
    if is_rle_list(segmentation):
        problems = (
            _segmentation_problem(part, size) if isinstance(part, dict) else _MIXED
            for part in segmentation
        )
        return next(filter(None, problems), None)
    for polygon in segmentation:
        if not isinstance(polygon, list) or not set(map(type, polygon)) <= {int, float}:
            return f": the polygon {describe(polygon)} is not a flat list of numbers [x1, y1, …]"
        if polygon and not _are_near(polygon):
            return (
                f": the polygon {describe(polygon)} has numbers that are NaN or beyond "
                f"{FARTHEST:g} pixels"
            )
    if not any(len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in segmentation):
        numbers = ", ".join(str(len(polygon)) for polygon in segmentation[:4])
        return f": no polygon has three points [x1, y1, x2, y2, x3, y3, …], their numbers are {numbers}"
    return None


def _are_near(polygon: list) -> bool:
    low, high = min(polygon), max(polygon)
    # Where NaN is, the sum is none; json has whole numbers that do not fit into a float.
    return low > -FARTHEST and high < FARTHEST and sum(polygon) == sum(polygon)


def _are_points(values) -> bool:
    return isinstance(values, list) and len(values) % 3 == 0 and all(map(is_finite, values))


def _among(value, known) -> bool:
    return is_id(value) and value in known
