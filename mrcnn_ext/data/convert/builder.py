# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Put COCO data sets together from the shapes that readers find."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field

from pycocotools import mask as mask_util

from ...coco.rle import rle_areas, rle_box, text_rle, to_rle
from ...errors import DataError
from ...messages import same_but_for_case, shorten
from ...skeletons.names import mirrored_pairs
from .geometry import box_of
from .image_folder import ImageFolder
from .lost import Lost
from .values import is_true

__all__ = ["Builder", "Shape", "join_groups"]

_CROWD = ("iscrowd", "is_crowd", "crowd")
_DIGITS = 3  # of coordinates that are written
Point = tuple[float, float, int]  # x, y, and visibility: 0 not labelled, 1 hidden, 2 visible


@dataclass
class Shape:
    """An object, or a part of one.

    Attributes:
        label: its class; None for points of an object that its group names.
        where: file and entry, for messages.
        polygons: flat ones, which are united.
        rle: a mask of the whole image, united with the polygons.
        box: x, y, width, height, if it was drawn; else that of the mask is taken.
        keypoints: by name.
        crowd: COCO's iscrowd.
        attributes: whatever else is known of it.
        group: shapes of one image with the same group are one object; None: it is one by itself.
    """

    label: str | None
    where: str
    polygons: list[list[float]] = field(default_factory=list)
    rle: dict | None = None
    box: tuple[float, float, float, float] | None = None
    keypoints: dict[str, Point] = field(default_factory=dict)
    crowd: bool = False
    attributes: dict = field(default_factory=dict)
    group: Hashable = None


def join_groups(shapes: Iterable[Shape], lost: Lost) -> list[Shape]:
    """Join the shapes of each group that have one class, and give them the group's points.

    Shapes of several classes in one group remain objects of their own.
    """
    groups: dict[Hashable, list[Shape]] = defaultdict(list)
    joined: list[Shape] = []
    for index, shape in enumerate(shapes):
        alone = shape.group is None
        groups[("alone", index) if alone else ("group", shape.group)].append(shape)
    for members in groups.values():
        objects: dict[str, Shape] = {}
        for shape in members:
            if shape.label is None:
                continue
            if shape.label in objects:
                _unite(objects[shape.label], shape)
            else:
                objects[shape.label] = shape
        points = [shape for shape in members if shape.label is None]
        if len(objects) == 1:
            (target,) = objects.values()
            for shape in points:
                _unite(target, shape)
        else:
            why = "no object" if not objects else "objects of several classes"
            for shape in points:
                lost.add(f"points whose group has {why}", shape.where)
        joined += objects.values()
    return joined


def _unite(first: Shape, other: Shape) -> None:
    first.polygons = first.polygons + other.polygons
    rles = [shape.rle for shape in (first, other) if shape.rle is not None]
    first.rle = mask_util.merge(rles) if len(rles) == 2 else rles[0] if rles else None
    boxes = [shape.box for shape in (first, other) if shape.box is not None]
    if len(boxes) == 2:
        (ax, ay, aw, ah), (bx, by, bw, bh) = boxes
        x, y = min(ax, bx), min(ay, by)
        first.box = x, y, max(ax + aw, bx + bw) - x, max(ay + ah, by + bh) - y
    elif boxes:
        first.box = boxes[0]
    # What the first has is kept, and comes first.
    first.keypoints = {**first.keypoints, **other.keypoints, **first.keypoints}
    first.attributes = {**first.attributes, **other.attributes, **first.attributes}
    first.crowd = first.crowd or other.crowd


class Builder:
    """Collects images and objects, and gives the COCO data set of them.

    Args:
        classes: names in the order of their ids; more are added as objects have them, sorted by name.
        folder: the pictures, for :func:`note_pictures`.
    """

    def __init__(self, classes: Sequence[str] = (), folder: ImageFolder | None = None) -> None:
        self.lost = Lost()
        self.folder = folder
        self.notes: list[str] = []
        self._declared = list(dict.fromkeys(classes))
        self._keypoints: dict[str, list[str]] = {}
        self._pairs: dict[str, list[tuple[str, str]]] = {}
        self._edges: dict[str, list[tuple[str, str]]] = {}
        self._images: list[dict] = []
        self._by_name: dict[str, dict] = {}
        self._objects: list[tuple[int, Shape, dict]] = []
        self.counts = dict.fromkeys(("polygons", "RLE", "boxes only", "keypoints", "crowds"), 0)

    def declare(
        self,
        label: str,
        keypoints: Sequence[str] = (),
        *,
        pairs: Sequence[tuple[str, str]] | None = None,
        edges: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Name a class, which then comes before those that objects alone name.

        Args:
            keypoints: their names, in order.
            pairs: names of left and right; None: told by the names.
            edges: pairs of names.
        """
        if label not in self._declared:
            self._declared.append(label)
        for name in keypoints:
            self._add_keypoint(label, name)
        if pairs is not None:
            self._pairs[label] = list(pairs)
        if edges:
            self._edges[label] = list(edges)

    def _add_keypoint(self, label: str, name: str) -> None:
        names = self._keypoints.setdefault(label, [])
        if name not in names:
            names.append(name)

    def image(self, file_name: str, width: int, height: int, where: str, **more) -> dict:
        """Add an image; give its entry, whose further keys are ``more``.

        Raises:
            DataError: there is an image of this name already.
        """
        if file_name in self._by_name:
            raise DataError(f"{where}: the image {file_name} is there twice.")
        entry = {"id": len(self._images) + 1, "file_name": file_name}
        entry |= {"width": width, "height": height, **more}
        self._by_name[file_name] = entry
        self._images.append(entry)
        return entry

    def has_image(self, file_name: str) -> bool:
        return file_name in self._by_name

    def add_all(self, image: dict, shapes: Iterable[Shape]) -> None:
        """:func:`join_groups`, then :func:`add` each."""
        for shape in join_groups(shapes, self.lost):
            self.add(image, shape)

    def add(self, image: dict, shape: Shape) -> None:
        """Add an object to an image; one without a pixel of it is lost.

        Raises:
            DataError: its mask is damaged; names file and entry.
        """
        assert shape.label is not None
        attributes = dict(shape.attributes)
        for key in [key for key in attributes if key.lower() in _CROWD]:
            shape.crowd = is_true(attributes.pop(key)) or shape.crowd
        entry: dict = {"image_id": image["id"]}
        found = self._mask(image, shape)
        if found is None and shape.box is None and not _labelled(shape):
            what = (
                "masks without a pixel" if shape.polygons or shape.rle else "shapes without extent"
            )
            self.lost.add(what, shape.where)
            return
        if found is not None:
            entry |= found
            self.counts["polygons" if isinstance(found["segmentation"], list) else "RLE"] += 1
        box = self._box(image, shape, found)
        if box is None:
            flat = shape.box is not None and not (shape.box[2] > 0 and shape.box[3] > 0)
            what = "boxes without extent" if flat else "objects outside their image"
            self.lost.add(what, shape.where)
            return
        entry["bbox"] = [round(value, _DIGITS) for value in box]
        if found is None:
            entry["area"] = round(box[2] * box[3], _DIGITS)
            self.counts["boxes only"] += 1
        entry["iscrowd"] = int(shape.crowd)
        self.counts["crowds"] += shape.crowd
        if attributes:
            entry["attributes"] = attributes
        for name in shape.keypoints:
            self._add_keypoint(shape.label, name)
        self.counts["keypoints"] += bool(_labelled(shape))
        self._objects.append((image["id"], shape, entry))

    def _mask(self, image: dict, shape: Shape) -> dict | None:
        """Segmentation and area; None where no pixel of the image is in it."""
        size = image["height"], image["width"]
        polygons = [p for p in shape.polygons if len(p) >= 6]
        short = len(shape.polygons) - len(polygons)
        if short:
            self.lost.add("polygons of fewer than three points", shape.where, short)
        if not polygons and shape.rle is None:
            return None
        try:
            parts = [to_rle(polygons, *size)] if polygons else []
            parts += [to_rle(shape.rle, *size)] if shape.rle is not None else []
        except ValueError as error:
            raise DataError(f"{shape.where}: {error}.") from error
        rle = parts[0] if len(parts) == 1 else mask_util.merge(parts)
        (area,) = rle_areas([rle])
        if not area:
            return None
        if shape.rle is None and not shape.crowd:
            kept = [[round(value, _DIGITS) for value in polygon] for polygon in polygons]
            return {"segmentation": kept, "area": area}
        return {"segmentation": text_rle(rle), "area": area}

    @staticmethod
    def _box(image: dict, shape: Shape, found: dict | None) -> list[float] | None:
        """Within the image; None if nothing of it is."""
        if shape.box is not None:
            x, y, width, height = shape.box
            corners = (x, y, x + width, y + height)
        elif found is None:
            labelled = _labelled(shape)
            corners = box_of([[value for x, y, _ in labelled for value in (x, y)]])
        elif isinstance(found["segmentation"], list):
            corners = box_of(found["segmentation"])
        else:
            return rle_box(found["segmentation"])
        limits = [image["width"], image["height"]] * 2
        x0, y0, x1, y1 = (min(max(v, 0.0), float(limit)) for v, limit in zip(corners, limits))
        only_points = shape.box is None and found is None
        empty = x1 < x0 or y1 < y0 if only_points else x1 <= x0 or y1 <= y0
        return None if empty else [x0, y0, x1 - x0, y1 - y0]

    def finish(self, keypoints: Sequence[str] = ()) -> dict:
        """The data set: images in the order of their names, objects in the order they came.

        Args:
            keypoints: all that a class with keypoints has, in order; else those that were found.

        Raises:
            DataError: there is no image, or no class, or a keypoint that is not among those given.
        """
        for label, names in self._keypoints.items() if keypoints else ():
            unknown = [name for name in names if name not in keypoints]
            if unknown:
                raise DataError(
                    f"class {label!r} has the keypoint {unknown[0]!r} besides those given."
                )
            self._keypoints[label] = list(keypoints)
        used = {shape.label for _, shape, _ in self._objects if shape.label is not None}
        names = [*self._declared, *sorted(used - set(self._declared))]
        if not self._images:
            raise DataError("no image was found.")
        if not names:
            lost = "".join(f" Not kept: {line}." for line in self.lost.lines())
            raise DataError(f"no object with a class was found.{lost}")
        self._note_spellings(names)
        categories = [self._category(number, name) for number, name in enumerate(names, 1)]
        numbers = {category["name"]: category["id"] for category in categories}
        images = sorted(self._images, key=lambda image: image["file_name"])
        ids = {image["id"]: number for number, image in enumerate(images, 1)}
        objects = sorted(self._objects, key=lambda found: ids[found[0]])
        # Detectron2's own loader wants keypoints of all objects, or of none.
        lengths = {len(names) for names in self._keypoints.values()}
        unlabelled = [0] * 3 * (lengths.pop() if len(lengths) == 1 else 0)
        annotations = []
        for number, (image_id, shape, entry) in enumerate(objects, 1):
            assert shape.label is not None
            entry = {"id": number, **entry, "category_id": numbers[shape.label]}
            entry["image_id"] = ids[image_id]
            annotations.append(entry | self._points(shape, unlabelled))
        images = [{**image, "id": ids[image["id"]]} for image in images]
        return {"images": images, "categories": categories, "annotations": annotations}

    def _note_spellings(self, names: Sequence[str]) -> None:
        """Note names that differ in capitals or blanks alone: most often they are one class."""
        for group in same_but_for_case(names):
            self.notes.append(
                f"{', '.join(map(repr, group))} are {len(group)} classes here; write them alike if "
                "they are one"
            )

    def note_pictures(self, *, whole: bool = True) -> None:
        """Note pictures that annotations name and that are not there.

        Args:
            whole: nothing of the data set was left out: note pictures that no annotation names, too.
        """
        if self.folder is None or self.folder.root is None:
            return
        missing = self.folder.missing
        if missing:
            self.notes.append(
                f"pictures that are not below {self.folder.root}: {len(missing)} "
                f"({shorten(missing, 3)}); name their folder with --images"
            )
        others = [name for name in self.folder.all() if name not in self._by_name] if whole else []
        if others and len(missing) < len(self._images):
            self.notes.append(
                f"pictures that no label names, which are left out: {len(others)} "
                f"({shorten(others, 3)})"
            )

    def _category(self, number: int, name: str) -> dict:
        category: dict = {"id": number, "name": name}
        keypoints = self._keypoints.get(name)
        if keypoints:
            place = {keypoint: index for index, keypoint in enumerate(keypoints, 1)}
            edges = self._edges.get(name, [])
            pairs = self._pairs.get(name, mirrored_pairs(keypoints))
            category |= {
                "keypoints": keypoints,
                "skeleton": [[place[a], place[b]] for a, b in edges if a in place and b in place],
                "flip_map": [list(pair) for pair in pairs],
            }
        return category

    def _points(self, shape: Shape, unlabelled: list) -> dict:
        names = self._keypoints.get(shape.label or "")
        if not names:
            return {"keypoints": unlabelled, "num_keypoints": 0} if unlabelled else {}
        flat: list[float] = []
        for name in names:
            x, y, visible = shape.keypoints.get(name, (0, 0, 0))
            flat += [round(x, _DIGITS), round(y, _DIGITS), visible] if visible else [0, 0, 0]
        return {"keypoints": flat, "num_keypoints": sum(v > 0 for v in flat[2::3])}


def _labelled(shape: Shape) -> list[Point]:
    return [point for point in shape.keypoints.values() if point[2] > 0]
