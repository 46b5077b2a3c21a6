# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""CVAT for images 1.1: an xml of polygons, boxes, ellipses, masks, points and skeletons."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from ....coco.rle import encode_mask
from ....errors import DataError
from ....messages import describe
from ..builder import Builder, Shape
from ..geometry import box_of, ellipse, rectangle, rotated
from ..image_folder import ImageFolder
from ..options import Options
from ..values import is_true, number, size_of
from ..xml_file import child_text, read_xml

__all__ = ["read_cvat"]

# Datumaro (MIT) reads it, too, but has no skeletons in this format and brings 40 packages.

_NODES = re.compile(r"<circle\b[^>]*>")
_LINES = re.compile(r"<line\b[^>]*>")
_OURS = ("box", "polygon", "mask", "ellipse", "points", "skeleton")


def read_cvat(source: Path, options: Options) -> Builder:
    """Read an export "CVAT for images 1.1".

    Shapes of one label with the same group_id (not 0) are one object. "occluded", "z_order" (if it is
    not 0) and all attributes are kept; points of a skeleton that are "outside" are not labelled, those
    that are "occluded" are hidden. Points in no group are an object with keypoints "1", "2", ….

    Args:
        source: annotations.xml, or its folder.
    """
    file = source / "annotations.xml" if source.is_dir() else source
    root = read_xml(file)
    if root.tag != "annotations":
        raise DataError(f"{file}: its root is <{root.tag}>, expected <annotations> of CVAT.")
    if root.find("track") is not None:
        raise DataError(
            f"{file}: it has tracks, so it is 'CVAT for video'; export it as 'CVAT for images 1.1'."
        )
    default = file.parent / "images"
    images = ImageFolder(options.images or (default if default.is_dir() else None))
    builder = Builder(options.classes, images)
    names = _declare_labels(root, builder)
    elements = root.findall("image")
    for done, element in enumerate(elements, 1):
        _read_image(element, file, images, names, builder, options)
        options.progress("images", done, len(elements))
    return builder


def _declare_labels(root: Element, builder: Builder) -> dict[str, list[str]]:
    """Declare the labels of the task in their order; return the points of each skeleton."""
    labels = [label for label in root.iter("label") if child_text(label, "name")]
    points: dict[str, list[str]] = {}
    for label in labels:
        parent = child_text(label, "parent")
        if parent:
            points.setdefault(parent, []).append(child_text(label, "name"))
    for label in labels:
        name = child_text(label, "name")
        if not child_text(label, "parent") and child_text(label, "type") != "tag":
            builder.declare(name, points.get(name, ()), edges=_edges(child_text(label, "svg")))
    return points


def _edges(svg: str) -> list[tuple[str, str]]:
    """Lines of a skeleton between its named points, as the svg of its label draws them."""

    def attribute(tag: str, name: str) -> str:
        match = re.search(rf'\b{name}="([^"]*)"', tag)
        return match[1] if match else ""

    names = {
        attribute(tag, "data-node-id"): attribute(tag, "data-label-name")
        for tag in _NODES.findall(svg)
    }
    ends = [
        (names.get(attribute(tag, "data-node-from")), names.get(attribute(tag, "data-node-to")))
        for tag in _LINES.findall(svg)
    ]
    return [(a, b) for a, b in ends if a and b]


def _read_image(
    element: Element,
    file: Path,
    images: ImageFolder,
    names: dict[str, list[str]],
    builder: Builder,
    options: Options,
) -> None:
    name = element.get("name") or ""
    where = f"{file}: image {name or describe(element.get('id'))}"
    if not name:
        raise DataError(f"{where}: it has no name.")
    stated = size_of(element.get("width"), element.get("height"), where)
    file_name, width, height = images.resolve(name, stated, where)
    tags = [child.get("label") for child in element.findall("tag")]
    more = {"attributes": {"tags": tags}} if tags else {}
    image = builder.image(file_name, width, height, where, **more)
    shapes = []
    for place, child in enumerate(element, 1):
        spot = f"{where}, {child.tag} {place}"
        if child.tag in _OURS:
            shapes += _shapes(child, spot, (width, height), names, builder, options)
        elif child.tag != "tag":
            builder.lost.add(
                f"{child.tag}s" if child.tag in ("polyline", "cuboid") else f"<{child.tag}>", spot
            )
    builder.add_all(image, _named_points(shapes))


def _named_points(shapes: list[Shape]) -> list[Shape]:
    """Points of a group belong to its object, if it has another shape of their label."""
    solid = {(s.group, s.label) for s in shapes if s.group is not None and not s.keypoints}
    for shape in shapes:
        if shape.keypoints and (shape.group, shape.label) in solid:
            shape.attributes = {}
    return shapes


def _shapes(
    element: Element,
    where: str,
    size: tuple[int, int],
    names: dict[str, list[str]],
    builder: Builder,
    options: Options,
) -> list[Shape]:
    label = element.get("label") or ""
    if not label:
        raise DataError(f"{where}: it has no label.")
    group = element.get("group_id") or None
    shape = Shape(label, where, group=None if group == "0" else group)
    shape.attributes = _attributes(element, where)
    kind = element.tag

    def value(name: str, default: str | None = None) -> float:
        return number(element.get(name, default), f"{where}: {name}")

    if kind == "box":
        x0, y0, x1, y1 = (value(name) for name in ("xtl", "ytl", "xbr", "ybr"))
        corners = rectangle(x0, y0, x1 - x0, y1 - y0)
        angle = value("rotation", "0")
        if angle:
            corners = rotated(corners, angle, (x0 + x1) / 2, (y0 + y1) / 2)
            shape.attributes |= {"rotation": angle, "corners": [round(v, 3) for v in corners]}
        a, b, c, d = box_of([corners])
        shape.box = a, b, c - a, d - b
        if options.boxes_as_masks:
            shape.polygons = [corners]
    elif kind == "polygon":
        shape.polygons = [[v for point in _points(element, where) for v in point]]
    elif kind == "ellipse":
        radii = abs(value("rx")), abs(value("ry"))
        shape.polygons = [ellipse(value("cx"), value("cy"), *radii, value("rotation", "0"))]
    elif kind == "mask":
        shape.rle = _mask(element, where, size)
    elif kind == "points":
        hidden = 1 if is_true(element.get("occluded", "0")) else 2
        shape.keypoints = {
            str(place): (x, y, hidden) for place, (x, y) in enumerate(_points(element, where), 1)
        }
    else:
        shape.keypoints = dict.fromkeys(names.get(label, ()), (0, 0, 0))
        for point in element.findall("points"):
            name = point.get("label") or ""
            ((x, y),) = _points(point, where)[:1] or [(0.0, 0.0)]
            outside, hidden = (is_true(point.get(k, "0")) for k in ("outside", "occluded"))
            shape.keypoints[name] = x, y, 0 if outside else 1 if hidden else 2
            if _attributes(point, where).keys() - {"occluded", "z_order"}:
                builder.lost.add("attributes of points of skeletons", where)
    return [shape]


def _attributes(element: Element, where: str) -> dict:
    found: dict = {}
    if is_true(element.get("occluded", "0")):
        found["occluded"] = True
    if element.get("z_order", "0") not in ("0", ""):
        found["z_order"] = int(number(element.get("z_order"), f"{where}: z_order"))
    for attribute in element.findall("attribute"):
        name, text = attribute.get("name") or "", (attribute.text or "").strip()
        found[name] = {"true": True, "false": False}.get(text.lower(), text)
    return found


def _points(element: Element, where: str) -> list[tuple[float, float]]:
    found = []
    for pair in filter(None, (element.get("points") or "").split(";")):
        x, _, y = pair.partition(",")
        found.append((number(x, f"{where}: points"), number(y, f"{where}: points")))
    if not found:
        raise DataError(f"{where}: it has no points.")
    return found


def _mask(element: Element, where: str, size: tuple[int, int]) -> dict:
    """Runs of 0 and 1 in turn, row by row in the box of the mask."""
    box = [number(element.get(k), f"{where}: {k}") for k in ("left", "top", "width", "height")]
    if any(value != int(value) for value in box):
        raise DataError(f"{where}: the mask's box is {box}, expected whole numbers.")
    left, top, width, height = map(int, box)
    words = (element.get("rle") or "").split(",")
    runs = np.array([number(word.strip(), f"{where}: rle") for word in words])
    inside = left >= 0 and top >= 0 and left + width <= size[0] and top + height <= size[1]
    if not inside or width < 1 or height < 1:
        raise DataError(
            f"{where}: the mask's box {box} is not within {size[0]} x {size[1]} pixels."
        )
    if runs.min() < 0 or (runs != runs.astype(np.int64)).any() or runs.sum() != width * height:
        raise DataError(
            f"{where}: its runs add up to {runs.sum():g}, expected {width * height} pixels of "
            f"{width} x {height}."
        )
    values = np.arange(len(runs), dtype=np.uint8) % 2
    dense = np.zeros(size[::-1], dtype=np.uint8)
    part = np.repeat(values, runs.astype(np.int64)).reshape(height, width)
    dense[top : top + height, left : left + width] = part
    return encode_mask(dense)
