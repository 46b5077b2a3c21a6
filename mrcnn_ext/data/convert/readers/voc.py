# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Pascal VOC: an xml of boxes for each image, and PNGs whose values number the objects."""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np
from PIL import Image

from ....coco.rle import encode_mask, rle_box
from ....errors import DataError
from ..builder import Builder, Shape
from ..geometry import rectangle
from ..image_folder import ImageFolder
from ..options import Options
from ..values import number, size_of
from ..xml_file import child_text, read_xml

__all__ = ["VOC_CLASSES", "read_voc"]

# supervision (MIT) reads the boxes, but neither "difficult" and its like nor SegmentationObject.

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
_KNOWN = {"name", "bndbox", "polygon", "part", "deleted", "id", "parts", "type", "actions", "point"}
_VOID = 255  # in SegmentationObject: the border of objects, and what is hard
_SAME = 0.3  # IoU of an object's box and the box of its mask, at least


def read_voc(source: Path, options: Options) -> Builder:
    """Read Annotations/*.xml, with the masks of SegmentationObject where there are any.

    Boxes are those of the xml; pixels are numbered from 1 as in VOC, unless a box begins at 0.

    Args:
        source: the folder with Annotations and the rest, or a folder of xml files.
    """
    folder = source / "Annotations" if (source / "Annotations").is_dir() else source
    files = sorted(folder.rglob("*.xml")) if folder.is_dir() else [folder]
    if options.part is not None:
        files = _part(source, options.part, files)
    if not files:
        raise DataError(f"{folder}: there are no xml files.")
    default = source / "JPEGImages"
    images = ImageFolder(options.images or (default if default.is_dir() else None))
    roots = [(file, read_xml(file)) for file in files]
    origin = _origin(roots, options.voc_origin)
    builder = Builder(options.classes, images)
    for done, (file, root) in enumerate(roots, 1):
        if root.tag != "annotation":
            raise DataError(f"{file}: its root is <{root.tag}>, expected <annotation>.")
        _read_file(file, root, source, images, origin, builder, options)
        options.progress("files", done, len(roots))
    builder.notes.append(f"the first pixel has the number {origin} (--voc-origin)")
    return builder


def _part(source: Path, part: str, files: list[Path]) -> list[Path]:
    """The images that ImageSets lists."""
    for kind in ("Segmentation", "Main"):
        file = source / "ImageSets" / kind / f"{part}.txt"
        if file.is_file():
            try:
                lines = file.read_text(encoding="utf-8-sig").splitlines()
            except (OSError, ValueError) as error:
                raise DataError(f"{file}: cannot be read: {error}.") from error
            names = {line.split()[0] for line in lines if line.split()}
            listed = [path for path in files if path.stem in names]
            if not listed:
                raise DataError(f"{file}: none of the {len(files)} xml files is of an image in it.")
            return listed
    raise DataError(f"{source}: there is no ImageSets/Segmentation or Main with {part}.txt.")


def _origin(roots: list[tuple[Path, Element]], given: int | None) -> int:
    if given is not None:
        return given
    for file, root in roots:
        for box in root.iter("bndbox"):
            corner = [_side(box, name, str(file)) for name in ("xmin", "ymin")]
            if min(corner) < 1:
                return 0
    return 1


def _side(box: Element, name: str, where: str) -> float:
    return number(child_text(box, name), f"{where}: {name}")


def _read_file(
    file: Path,
    root: Element,
    source: Path,
    images: ImageFolder,
    origin: int,
    builder: Builder,
    options: Options,
) -> None:
    size = root.find("size")
    stated = None
    if size is not None:
        stated = size_of(child_text(size, "width"), child_text(size, "height"), str(file))
    name = child_text(root, "filename", f"{file.stem}.jpg")
    if images.root is not None and images.find(name) is None:
        name = images.find_stem(file.stem) or name  # some tools leave the suffix out
    file_name, width, height = images.resolve(name, stated, str(file))
    image = builder.image(file_name, width, height, str(file))
    shapes = [
        _shape(entry, f"{file}: object {place}", origin, builder, options)
        for place, entry in enumerate(root.iter("object"), 1)
    ]
    kept = [shape for shape in shapes if shape is not None]
    _add_masks(source, file.stem, (width, height), shapes, kept, builder)
    for shape in kept:
        builder.add(image, shape)


def _shape(
    entry: Element, where: str, origin: int, builder: Builder, options: Options
) -> Shape | None:
    label = child_text(entry, "name")
    if not label:
        raise DataError(f"{where}: there is no <name>.")
    if child_text(entry, "deleted") == "1":
        return None
    attributes = {
        child.tag: _plain(child.text.strip())
        for child in entry
        if child.tag not in _KNOWN and child.text and child.text.strip() and not len(child)
    }
    for part in entry.findall("part"):
        builder.lost.add("parts of objects", f"{where}, {child_text(part, 'name')}")
    shape = Shape(label, where, attributes=attributes)
    polygon = entry.find("polygon")
    if polygon is not None:
        shape.polygons = [_polygon(polygon, where)]
    box = entry.find("bndbox")
    if box is not None:
        x0, y0, x1, y1 = (_side(box, name, where) for name in ("xmin", "ymin", "xmax", "ymax"))
        # Corner pixels that belong to the box, numbered from the origin; from 0, as tools write it,
        # the right and lower ones are edges.
        shape.box = x0 - origin, y0 - origin, x1 - x0 + origin, y1 - y0 + origin
        if min(shape.box[2:]) < 0:
            raise DataError(f"{where}: its box ends before it begins.")
        if options.boxes_as_masks and not shape.polygons:
            shape.polygons = [rectangle(*shape.box)]
    elif not shape.polygons:
        raise DataError(f"{where}: there is neither <bndbox> nor <polygon>.")
    return shape


def _plain(text: str) -> str | int:
    return int(text) if text in ("0", "1") else text


def _polygon(element: Element, where: str) -> list[float]:
    """Points as <x1>, <y1>, <x2>, … or as <pt> or <point> with <x> and <y>."""
    points = [p for p in element if p.tag in ("pt", "point")]
    if points:
        return [number(child_text(p, axis), f"{where}: {axis}") for p in points for axis in "xy"]
    found, place = [], 1
    while element.find(f"x{place}") is not None:
        found += [number(child_text(element, f"{a}{place}"), f"{where}: {a}{place}") for a in "xy"]
        place += 1
    return found


def _add_masks(
    source: Path,
    stem: str,
    size: tuple[int, int],
    shapes: list[Shape | None],
    kept: list[Shape],
    builder: Builder,
) -> None:
    """Give the shapes their masks, and add objects that only have a mask."""
    file = source / "SegmentationObject" / f"{stem}.png"
    if not file.is_file():
        return
    objects = _values(file, size)
    classes = source / "SegmentationClass" / f"{stem}.png"
    class_values = _values(classes, size) if classes.is_file() else None
    if (objects == _VOID).any():
        builder.lost.add("images with void pixels, which belong to no object here", str(file))
    for value in np.unique(objects):
        if value in (0, _VOID):
            continue
        mask = objects == value
        rle = encode_mask(mask)
        found = _owner(shapes, int(value) - 1, rle_box(rle))
        if found is not None:
            found.rle, found.polygons = rle, []
            continue
        where = f"{file}: object {value}"
        label = _label(class_values, mask)
        if label is None:
            builder.lost.add("masks without a class", where)
        else:
            kept.append(Shape(label, where, rle=rle))


def _owner(shapes: list[Shape | None], index: int, box: list[float]) -> Shape | None:
    """The object that a mask belongs to: that of its number, or else that whose box fits best."""
    free = [shape for shape in shapes if shape is not None and shape.rle is None]
    named = shapes[index] if index < len(shapes) else None
    if named is not None and named.rle is None and _iou(named.box, box) >= _SAME:
        return named
    best = max(free, key=lambda shape: _iou(shape.box, box), default=None)
    return best if best is not None and _iou(best.box, box) >= _SAME else None


def _iou(first, other) -> float:
    if first is None:
        return 0.0
    sides = [
        max(min(first[i] + first[i + 2], other[i] + other[i + 2]) - max(first[i], other[i]), 0.0)
        for i in (0, 1)
    ]
    both = sides[0] * sides[1]
    return both / max(first[2] * first[3] + other[2] * other[3] - both, 1e-9)


def _label(classes: np.ndarray | None, mask: np.ndarray) -> str | None:
    if classes is None:
        return None
    values = classes[mask]
    values = values[(values > 0) & (values <= len(VOC_CLASSES))]
    return VOC_CLASSES[int(np.bincount(values).argmax()) - 1] if len(values) else None


def _values(file: Path, size: tuple[int, int]) -> np.ndarray:
    try:
        with Image.open(file) as picture:
            values = np.asarray(picture)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{file}: cannot be read as a picture: {error}.") from error
    if values.ndim != 2 or values.dtype != np.uint8:
        raise DataError(f"{file}: expected a PNG with a palette, or one of 8-bit grey.")
    if values.shape != size[::-1]:
        raise DataError(
            f"{file}: has {values.shape[1]} x {values.shape[0]} pixels, the image {size[0]} x "
            f"{size[1]}."
        )
    return values
