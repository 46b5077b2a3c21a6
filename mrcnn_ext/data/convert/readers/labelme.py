# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""labelme: a json for each image, with polygons, rectangles, circles, masks and points."""

from __future__ import annotations

import base64
import binascii
import io
import math
from pathlib import Path, PureWindowsPath

import numpy as np
from PIL import Image

from ....coco.read import read_json
from ....coco.rle import encode_mask
from ....errors import DataError
from ....messages import describe
from ..builder import Builder, Shape
from ..geometry import ellipse, rectangle
from ..image_folder import ImageFolder
from ..options import Options
from ..values import as_dict, as_list, flat_points, is_true, size_of, text

__all__ = ["read_labelme"]

# labelme itself is GPL-3.0, and its labelme2coco script fills masks of polygons only.

_POINTS = {"rectangle": 2, "circle": 2, "point": 1}
_NO_AREA = {"line": "lines", "linestrip": "polylines", "points": "sets of points"}


def read_labelme(source: Path, options: Options) -> Builder:
    """Read the json files of a folder and those below it.

    Shapes of one label with the same group_id are one object, and points of that group are its
    keypoints, whose labels are their names.

    Args:
        source: a folder, or one json.
    """
    files = sorted(source.rglob("*.json")) if source.is_dir() else [source]
    folder = source if source.is_dir() else source.parent
    images = ImageFolder(options.images or folder)
    builder = Builder(options.classes, images)
    found = 0
    for done, file in enumerate(files, 1):
        content = read_json(file)
        if not isinstance(content, dict) or "shapes" not in content:
            if not source.is_dir():
                raise DataError(f"{file}: is no file of labelme: there is no 'shapes'.")
            builder.notes.append(f"{file} is no file of labelme, and was passed over")
            continue
        found += 1
        _read_file(file, content, folder, images, builder, options)
        options.progress("files", done, len(files))
    if not found:
        raise DataError(f"{source}: there is no json of labelme.")
    return builder


def _read_file(
    file: Path, content: dict, folder: Path, images: ImageFolder, builder: Builder, options: Options
) -> None:
    stated = size_of(content.get("imageWidth"), content.get("imageHeight"), str(file))
    name = content.get("imagePath")
    name = f"{file.stem}.jpg" if not name else text(name, f"{file}: imagePath")
    # The path is relative to the json; below another folder, the name alone counts.
    beside = file.parent / PureWindowsPath(name).as_posix()
    root = images.root or folder
    try:
        name = beside.resolve().relative_to(root.resolve()).as_posix()
    except ValueError:
        name = beside.name
    file_name, width, height = images.resolve(name, stated, str(file))
    flags = as_dict(content.get("flags") or {}, f"{file}: flags")  # old versions write ""
    flags = {k: v for k, v in flags.items() if v not in (False, None, "")}
    more = {"attributes": flags} if flags else {}
    image = builder.image(file_name, width, height, str(file), **more)
    shapes = []
    for place, entry in enumerate(as_list(content["shapes"], f"{file}: shapes")):
        where = f"{file}: shapes[{place}]"
        shape = _shape(as_dict(entry, where), where, (width, height), builder, options)
        if shape is not None:
            shapes.append(shape)
    builder.add_all(image, shapes)


def _shape(
    entry: dict, where: str, size: tuple[int, int], builder: Builder, options: Options
) -> Shape | None:
    label = text(entry.get("label"), f"{where}: label")
    kind = text(entry.get("shape_type") or "polygon", f"{where}: shape_type")
    if kind in _NO_AREA:
        builder.lost.add(_NO_AREA[kind], where)
        return None
    points = flat_points(entry.get("points"), f"{where}: points")
    corners = kind == "rectangle" and len(points) == 8  # newer versions write all four
    if not corners and len(points) // 2 != _POINTS.get(kind, len(points) // 2):
        raise DataError(f"{where}: a {kind} has {len(points) // 2} points.")
    group = entry.get("group_id")
    group = group if isinstance(group, (int, str)) else None
    shape = Shape(label, where, group=group, attributes=_attributes(entry))
    if kind == "polygon":
        shape.polygons = [points]
    elif kind == "rectangle":
        xs, ys = points[0::2], points[1::2]
        box = min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)
        shape.box = box
        if options.boxes_as_masks:
            shape.polygons = [points if corners else rectangle(*box)]
    elif kind == "circle":
        x, y, ex, ey = points
        radius = math.hypot(ex - x, ey - y)
        shape.polygons = [ellipse(x, y, radius, radius)]
    elif kind == "mask":
        shape.rle = _mask(entry.get("mask"), points, where, size)
    elif kind == "point":
        if group is None:
            builder.lost.add("points without a group", where)
            return None
        hidden = is_true(shape.attributes.get("occluded", False))
        shape.keypoints = {label: (points[0], points[1], 1 if hidden else 2)}
        shape.label, shape.attributes = None, {}
    else:
        raise DataError(f"{where}: shape_type is {describe(kind)}, which is not known.")
    return shape


def _attributes(entry: dict) -> dict:
    flags = entry.get("flags")
    found = {k: v for k, v in flags.items() if v is not None} if isinstance(flags, dict) else {}
    if isinstance(entry.get("description"), str) and entry["description"]:
        found["description"] = entry["description"]
    return found


def _mask(value, points: list[float], where: str, size: tuple[int, int]) -> dict:
    """The mask of the whole image, from a PNG of the part between two points."""
    try:
        data = base64.b64decode(value, validate=True)
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            if picture.width > size[0] + 1 or picture.height > size[1] + 1:
                raise ValueError(f"it has {picture.width} x {picture.height} pixels")
            part = np.asarray(picture)
    except (TypeError, ValueError, OSError, SyntaxError, binascii.Error) as error:
        raise DataError(f"{where}: mask is no PNG in base64: {error}.") from error
    if part.ndim != 2 or len(points) != 4:
        raise DataError(f"{where}: expected a mask of one channel, and two points.")
    dense = np.zeros((size[1], size[0]), dtype=bool)
    x, y = int(min(points[0::2])), int(min(points[1::2]))
    x0, y0 = max(x, 0), max(y, 0)
    part = part[y0 - y :, x0 - x :][: max(size[1] - y0, 0), : max(size[0] - x0, 0)]
    dense[y0 : y0 + part.shape[0], x0 : x0 + part.shape[1]] = part != 0
    return encode_mask(dense)
