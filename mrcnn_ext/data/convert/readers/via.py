# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""VIA (VGG Image Annotator) 2.x, and 1.x: one json of regions with attributes."""

from __future__ import annotations

import math
from pathlib import Path

from ....coco.read import read_json
from ....errors import DataError
from ....messages import describe, shorten
from ..builder import Builder, Shape
from ..geometry import ellipse, rectangle
from ..image_folder import ImageFolder
from ..options import Options
from ..values import as_dict, as_list, number, text

__all__ = ["read_via"]

_CLASS_NAMES = ("class", "label", "category", "name", "type", "object")


def read_via(source: Path, options: Options) -> Builder:
    """Read a project (``_via_img_metadata``) or an export of annotations.

    The class is the region attribute ``options.class_attribute``; without one, that of a usual name
    ("class", "label", …), or the only one there is. Regions with the same value of
    ``options.group_attribute`` are one object, and points among them its keypoints.
    """
    content = as_dict(read_json(source), str(source))
    entries = as_dict(content.get("_via_img_metadata", content), str(source))
    images = ImageFolder(options.images)
    builder = Builder(options.classes, images)
    for key, entry in entries.items():
        where = f"{source}: {key}"
        if not isinstance(entry, dict) or "regions" not in entry or "filename" not in entry:
            raise DataError(f"{where}: is no image of VIA: 'filename' or 'regions' is missing.")
    key = _class_attribute(entries, source, options.class_attribute)
    for done, (name, entry) in enumerate(entries.items(), 1):
        where = f"{source}: {name}"
        _read_image(entry, where, key, images, builder, options)
        options.progress("images", done, len(entries))
    return builder


def _regions(entry: dict, where: str) -> list:
    regions = entry["regions"]
    if isinstance(regions, dict):  # of version 1
        regions = list(regions.values())
    return as_list(regions, f"{where}: regions")


def _class_attribute(entries: dict, source: Path, given: str | None) -> str | None:
    names: dict[str, None] = {}
    for key, entry in entries.items():
        for region in _regions(entry, f"{source}: {key}"):
            attributes = region.get("region_attributes") if isinstance(region, dict) else None
            names |= dict.fromkeys(attributes if isinstance(attributes, dict) else ())
    if given is not None:
        if names and given not in names:
            raise DataError(
                f"{source}: no region has the attribute {given!r} of --class-attribute; there are "
                f"{shorten(names)}."
            )
        return given
    for name in _CLASS_NAMES:
        for found in names:
            if found.lower() == name:
                return found
    if len(names) > 1:
        raise DataError(
            f"{source}: regions have the attributes {shorten(names)}; name the one that is the class "
            "with --class-attribute."
        )
    return next(iter(names), None)


def _read_image(
    entry: dict,
    where: str,
    key: str | None,
    images: ImageFolder,
    builder: Builder,
    options: Options,
) -> None:
    name = text(entry["filename"], f"{where}: filename")
    file_name, width, height = images.resolve(name, None, where)
    attributes = entry.get("file_attributes")
    known = {k: v for k, v in attributes.items() if v != ""} if isinstance(attributes, dict) else {}
    more = {"attributes": known} if known else {}
    image = builder.image(file_name, width, height, where, **more)
    shapes = []
    for place, region in enumerate(_regions(entry, where)):
        spot = f"{where}: regions[{place}]"
        shape = _shape(as_dict(region, spot), spot, key, builder, options)
        if shape is not None:
            shapes.append(shape)
    builder.add_all(image, shapes)


def _shape(
    region: dict, where: str, key: str | None, builder: Builder, options: Options
) -> Shape | None:
    outline = as_dict(region.get("shape_attributes"), f"{where}: shape_attributes")
    attributes = {
        name: sorted(k for k, v in value.items() if v) if isinstance(value, dict) else value
        for name, value in as_dict(
            region.get("region_attributes") or {}, f"{where}: region_attributes"
        ).items()
        if value != ""
    }
    only = options.classes[0] if len(options.classes) == 1 else "object"
    label = only if key is None else attributes.pop(key, None)
    if isinstance(label, list):  # check boxes
        label = label[0] if len(label) == 1 else None
    if label is None:
        builder.lost.add("regions without one class", where)
        return None
    group = attributes.pop(options.group_attribute, None) if options.group_attribute else None
    group = None if group is None else str(group)
    shape = Shape(text(label, f"{where}: {key}"), where, attributes=attributes, group=group)
    kind = outline.get("name")

    def value(name: str) -> float:
        return number(outline.get(name), f"{where}: {name}")

    def values(name: str) -> list[float]:
        return [
            number(v, f"{where}: {name}") for v in as_list(outline.get(name), f"{where}: {name}")
        ]

    if kind == "polygon":
        xs, ys = values("all_points_x"), values("all_points_y")
        if len(xs) != len(ys):
            raise DataError(
                f"{where}: there are {len(xs)} all_points_x and {len(ys)} all_points_y."
            )
        shape.polygons = [[v for point in zip(xs, ys) for v in point]]
    elif kind == "rect":
        shape.box = value("x"), value("y"), value("width"), value("height")
        if options.boxes_as_masks:
            shape.polygons = [rectangle(*shape.box)]
    elif kind == "circle":
        radius = abs(value("r"))
        shape.polygons = [ellipse(value("cx"), value("cy"), radius, radius)]
    elif kind == "ellipse":
        angle = math.degrees(number(outline.get("theta", 0), f"{where}: theta"))
        radii = abs(value("rx")), abs(value("ry"))
        shape.polygons = [ellipse(value("cx"), value("cy"), *radii, angle)]
    elif kind == "point":
        if group is None:
            builder.lost.add("points without a group (--group-attribute)", where)
            return None
        shape.keypoints = {shape.label or "": (value("cx"), value("cy"), 2)}
        shape.label, shape.attributes = None, {}
    elif kind == "polyline":
        builder.lost.add("polylines", where)
        return None
    else:
        raise DataError(f"{where}: the shape is {describe(kind)}, which is not known.")
    return shape
