# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Label Studio: its JSON export, with polygons, rectangles, ellipses, brush masks and keypoints."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from ....coco.read import read_json
from ....coco.rle import encode_mask
from ....errors import DataError
from ....messages import describe
from ..brush import decode_brush
from ..builder import Builder, Shape
from ..geometry import box_of, ellipse, rectangle, rotated
from ..image_folder import PICTURES, ImageFolder
from ..options import Options
from ..values import as_dict, as_list, flat_points, number, size_of, text

__all__ = ["read_label_studio"]

# label-studio-sdk's converter writes COCO, too, but turns brush masks into outlines without holes,
# drops keypoints and attributes, and ignores the rotation of rectangles.

_SHAPES = {"polygon", "rectangle", "ellipse", "brush", "keypoint"}
_SHAPES |= {f"{shape}labels" for shape in _SHAPES}
_ATTRIBUTES = ("choices", "text", "rating", "number", "taxonomy", "datetime")
_UPLOAD = re.compile(r"[0-9a-f]{8}-(.+)")  # what it puts before the name of an uploaded file


def read_label_studio(source: Path, options: Options) -> Builder:
    """Read a JSON export (not JSON-MIN).

    A task has one annotation here: the ground truth, or the first that was not cancelled. A polygon
    whose parent is a polygon of the same label is a further part of it. Keypoints belong to the region
    that is their parent, that a relation joins them to, or that alone has them inside; their labels are
    their names. Choices, texts and numbers of a region are its attributes.
    """
    tasks = as_list(read_json(source), str(source))
    images = ImageFolder(options.images)
    builder = Builder(options.classes, images)
    for done, task in enumerate(tasks, 1):
        where = f"{source}: task {describe(task.get('id')) if isinstance(task, dict) else done}"
        _read_task(as_dict(task, where), where, images, builder, options)
        options.progress("tasks", done, len(tasks))
    return builder


def _read_task(
    task: dict, where: str, images: ImageFolder, builder: Builder, options: Options
) -> None:
    found = task.get("annotations", task.get("completions"))
    if found is None:
        raise DataError(f"{where}: it has no 'annotations'; export as JSON, not as JSON-MIN.")
    annotations = [
        as_dict(entry, f"{where}: annotations") for entry in as_list(found, f"{where}: annotations")
    ]
    valid = [a for a in annotations if not a.get("was_cancelled")]
    valid.sort(key=lambda a: not a.get("ground_truth"))
    if len(valid) > 1:
        builder.lost.add("further annotations of a task", where, len(valid) - 1)
    if task.get("predictions"):
        builder.lost.add("tasks with predictions, which were left out", where)
    results = as_list(valid[0].get("result"), f"{where}: result") if valid else []
    results = [as_dict(r, f"{where}: result[{i}]") for i, r in enumerate(results)]
    regions = _regions(results)
    shaped = [r for parts in regions.values() for r in parts if _kind(r) in _SHAPES]
    stated = None
    if shaped:
        stated = size_of(shaped[0].get("original_width"), shaped[0].get("original_height"), where)
    name = _image_name(as_dict(task.get("data"), f"{where}: data"), images, where)
    file_name, width, height = images.resolve(name, stated, where)
    flat = [r for parts in regions.values() for r in parts if _kind(r) in _ATTRIBUTES]
    attributes = _values([r for r in flat if not _of_region(r, regions)])
    more = {"attributes": attributes} if attributes else {}
    image = builder.image(file_name, width, height, where, **more)
    if not valid:
        builder.lost.add("tasks without an annotation, kept as images without objects", where)
    relations = [r for r in results if r.get("type") == "relation"]
    shapes: dict[str, Shape] = {}
    points: list[tuple[dict, Shape]] = []
    for key, parts in regions.items():
        spot = f"{where}, region {key}"
        made = _shape(parts, spot, (width, height), builder, options)
        if made is None:
            continue
        if made.keypoints:
            points.append((next(r for r in parts if _kind(r) in _SHAPES), made))
        else:
            shapes[key] = made
    _join_parts(regions, shapes)
    _give_points(points, shapes, relations, builder)
    for shape in shapes.values():
        builder.add(image, shape)


def _kind(result: dict) -> str:
    return str(result.get("type", "")).lower()


def _regions(results: list[dict]) -> dict[str, list[dict]]:
    """Results by the id of their region: the shape, its labels, its attributes."""
    regions: dict[str, list[dict]] = {}
    for index, result in enumerate(results):
        if result.get("type") != "relation":
            regions.setdefault(str(result.get("id", f"#{index}")), []).append(result)
    return regions


def _of_region(result: dict, regions: dict[str, list[dict]]) -> bool:
    return any(_kind(r) in _SHAPES for r in regions.get(str(result.get("id")), ()))


def _values(results: list[dict]) -> dict:
    """What was chosen or written, by the names of the controls."""
    found = {}
    for result in results:
        value = result.get("value")
        if not isinstance(value, dict):
            continue
        for key in _ATTRIBUTES:
            if value.get(key) not in (None, "", []):
                answer = value[key]
                single = isinstance(answer, list) and len(answer) == 1
                found[str(result.get("from_name", key))] = answer[0] if single else answer
    return found


def _image_name(data: dict, images: ImageFolder, where: str) -> str:
    """The name of a task's image: of an upload, a local file, or an address."""
    texts = {k: v for k, v in data.items() if isinstance(v, str)}
    address = texts.get("image")
    try:
        if address is None:
            address = next(
                (v for v in texts.values() if Path(urlsplit(v).path).suffix.lower() in PICTURES),
                None,
            )
        parts = urlsplit(address or "")
    except ValueError as error:
        raise DataError(f"{where}: its image has no address: {error}.") from error
    if not address:
        raise DataError(f"{where}: its data names no image.")
    if parts.scheme == "data":
        raise DataError(
            f"{where}: its image is within the export; save it as a file, and export its name."
        )
    local = parse_qs(parts.query).get("d")
    path = unquote(local[0] if local else parts.path or address)
    if images.root is not None and images.find(path) is None:
        upload = _UPLOAD.fullmatch(Path(path).name)
        if upload and images.find(upload[1]) is not None:
            return upload[1]
    return path.lstrip("/") if images.root is not None else Path(path).name


def _shape(
    parts: list[dict], where: str, size: tuple[int, int], builder: Builder, options: Options
) -> Shape | None:
    """The shape of a region's results; None where there is none that can be kept."""
    shaped = [r for r in parts if _kind(r) in _SHAPES]
    for result in parts:
        kind = _kind(result)
        if kind not in _SHAPES and kind not in ("labels", "textarea", *_ATTRIBUTES):
            builder.lost.add(f"results of type {describe(result.get('type'))}", where)
    if not shaped:
        return None
    result = shaped[0]
    value = as_dict(result.get("value"), f"{where}: value")
    stated = size_of(result.get("original_width"), result.get("original_height"), where)
    if stated is not None and stated != size:
        raise DataError(
            f"{where}: its image has {stated[0]} x {stated[1]} pixels, the task's {size[0]} x "
            f"{size[1]}."
        )
    if number(result.get("image_rotation") or 0, f"{where}: image_rotation") % 360:
        builder.lost.add("regions of images that were rotated in the tool", where)
        return None
    labels = _labels(parts)
    if not labels:
        builder.lost.add("regions without a label", where)
        return None
    attributes = _values(parts)
    if len(labels) > 1:
        attributes["further_labels"] = labels[1:]
        builder.lost.add("further labels of a region (kept as the attribute further_labels)", where)
    shape = Shape(text(labels[0], f"{where}: label"), where, attributes=attributes)
    _set_outline(shape, _kind(result).removesuffix("labels"), value, size, where, options)
    return shape


def _labels(parts: list[dict]) -> list:
    for result in parts:
        value = result.get("value")
        if not isinstance(value, dict):
            continue
        for key in (_kind(result), "labels", *sorted(k for k in value if k.endswith("labels"))):
            if isinstance(value.get(key), list) and value[key]:
                return value[key]
    return []


def _set_outline(
    shape: Shape, kind: str, value: dict, size: tuple[int, int], where: str, options: Options
) -> None:
    """Percentages of the image become pixels."""
    width, height = size

    def part(name: str, side: int) -> float:
        return number(value.get(name), f"{where}: {name}") * side / 100

    if kind == "brush":
        runs = as_list(value.get("rle"), f"{where}: rle")
        try:
            shape.rle = encode_mask(decode_brush(runs, width, height))
        except ValueError as error:
            raise DataError(f"{where}: {error}.") from error
        return
    angle = number(value.get("rotation") or 0, f"{where}: rotation")
    if kind == "polygon":
        points = flat_points(value.get("points"), f"{where}: points")
        shape.polygons = [[v * size[index % 2] / 100 for index, v in enumerate(points)]]
        return
    x, y = part("x", width), part("y", height)
    if kind == "keypoint":
        shape.keypoints = {shape.label or "": (x, y, 2)}
    elif kind == "ellipse":
        radii = abs(part("radiusX", width)), abs(part("radiusY", height))
        shape.polygons = [ellipse(x, y, *radii, angle)]
    else:
        corners = rectangle(x, y, part("width", width), part("height", height))
        if angle:  # around the upper left corner
            corners = rotated(corners, angle, x, y)
            shape.attributes |= {"rotation": angle, "corners": [round(v, 3) for v in corners]}
        a, b, c, d = box_of([corners])
        shape.box = a, b, c - a, d - b
        if options.boxes_as_masks:
            shape.polygons = [corners]


def _join_parts(regions: dict[str, list[dict]], shapes: dict[str, Shape]) -> None:
    """Move polygons to the polygon that is their parent (``parentID``), where both have one label."""
    # Children first come after their parents; from the end on, parts of parts are moved, too.
    for key in reversed(list(shapes)):
        parents = [str(r["parentID"]) for r in regions[key] if r.get("parentID")]
        parent = shapes.get(parents[0]) if parents and parents[0] != key else None
        part = shapes[key]
        if parent and parent.label == part.label and parent.polygons and part.polygons:
            parent.polygons = parent.polygons + part.polygons
            del shapes[key]


def _give_points(
    points: list[tuple[dict, Shape]],
    shapes: dict[str, Shape],
    relations: list[dict],
    builder: Builder,
) -> None:
    for result, point in points:
        key, (x, y, _) = str(result.get("id")), next(iter(point.keypoints.values()))
        ends = [(str(r.get("from_id")), str(r.get("to_id"))) for r in relations]
        related = [b if a == key else a for a, b in ends if key in (a, b)]
        named = [str(result.get("parentID")), *related]
        owners = [k for k in named if k in shapes][:1]
        if not owners:
            owners = [k for k, shape in shapes.items() if _has_inside(shape, x, y)]
        if len(owners) != 1:
            why = "no region" if not owners else "several regions"
            builder.lost.add(f"keypoints in {why}, without parent or relation", point.where)
            continue
        owner = shapes[owners[0]]
        repeated = owner.keypoints.keys() & point.keypoints.keys()
        if repeated:
            builder.lost.add("keypoints that their object has already", point.where)
        else:
            owner.keypoints |= point.keypoints


def _has_inside(shape: Shape, x: float, y: float) -> bool:
    if shape.box is not None:
        left, top, width, height = shape.box
        return left <= x <= left + width and top <= y <= top + height
    if not shape.polygons:
        return False
    x0, y0, x1, y1 = box_of(shape.polygons)
    return x0 <= x <= x1 and y0 <= y <= y1
