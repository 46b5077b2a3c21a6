# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Write Pascal VOC: boxes in Annotations, masks in SegmentationObject and SegmentationClass."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import numpy as np
from PIL import Image
from pycocotools import mask as mask_util

from ....errors import DataError
from ....files import replaced_file, write_text
from .dataset import CocoObject, Source, Target, file_stem

__all__ = ["write_voc"]

_FLAGS = ("pose", "truncated", "difficult", "occluded")
_NOT_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_MOST = 254  # objects that a palette can number: 0 is background, 255 is void


def write_voc(source: Source, target: Target) -> None:
    """Write a folder as VOC2012 has it, without the pictures.

    Pixels belong to one object: where masks overlap, the smaller one, which is on top most often. Boxes
    are whole pixels, numbered from 1, around what was written.
    """
    colours = _palette()
    names = []
    for done, image in enumerate(source.images, 1):
        path = PurePosixPath(image["file_name"])
        if len(path.parts) > 1:
            raise DataError(
                f"{source.path}: the image {path} is in a folder below that of the images, which VOC "
                "does not know."
            )
        found = source.objects(image)
        names.append(path.stem)
        kept = _write_masks(source, target, image, found, colours)
        text = ElementTree.tostring(_annotation(image, kept, target), encoding="unicode")
        write_text(target.folder / "Annotations" / f"{path.stem}.xml", text + "\n")
        target.progress("images", done, len(source.images))
    for kind in ("Main", "Segmentation"):
        file = target.folder / "ImageSets" / kind / "all.txt"
        write_text(file, "".join(f"{name}\n" for name in names))
    listed = "".join(f"{number} {name}\n" for number, name in enumerate(source.names, 1))
    write_text(target.folder / "classes.txt", listed)


def _annotation(image: dict, objects: list[CocoObject], target: Target) -> Element:
    root = Element("annotation")
    _leaf(root, "filename", image["file_name"])
    size = SubElement(root, "size")
    for name, value in (("width", image["width"]), ("height", image["height"]), ("depth", 3)):
        _leaf(size, name, value)
    _leaf(root, "segmented", int(any(o.entry.get("segmentation") for o in objects)))
    for found in objects:
        element = SubElement(root, "object")
        _leaf(element, "name", found.label)
        attributes = found.attributes()
        for name, value in attributes.items():
            if name in _FLAGS and isinstance(value, (str, int)):
                _leaf(element, name, int(value) if isinstance(value, bool) else value)
            else:
                target.lost.add("attributes that VOC does not know", f"{found.where}, {name}")
        x, y, w, h = found.box()
        box = SubElement(element, "bndbox")
        sides = np.floor([x, y]).astype(int) + 1, np.ceil([x + w, y + h]).astype(int)
        for name, value in zip(("xmin", "ymin", "xmax", "ymax"), np.concatenate(sides)):
            _leaf(box, name, int(value))
        if any(v != round(v) for v in (x, y, w, h)):
            target.lost.add("boxes with parts of pixels, which were rounded outwards", found.where)
        if any(seen for *_, seen in found.points()):
            target.lost.add("keypoints", found.where)
    ElementTree.indent(root)
    return root


def _leaf(parent: Element, name: str, value) -> None:
    text = str(value)
    if _NOT_XML.search(text):
        raise DataError(f"{text!r} has characters that xml cannot hold; rename it.")
    SubElement(parent, name).text = text


def _write_masks(
    source: Source, target: Target, image: dict, objects: list[CocoObject], colours: list[int]
) -> list[CocoObject]:
    """Write both pictures if there are masks; return the objects of the xml, without crowds."""
    kept = []
    for found in objects:
        if found.crowd:
            target.lost.add("crowds: VOC has no such mark", found.where)
        else:
            kept.append(found)
    masks = [(number, o, o.rle()) for number, o in enumerate(kept, 1)]
    masks = [(number, o, rle) for number, o, rle in masks if rle is not None]
    if not masks:
        return kept
    ids = np.zeros((image["height"], image["width"]), dtype=np.uint8)
    classes = np.zeros_like(ids)
    numbers = {name: number for number, name in enumerate(source.names, 1)}
    covered = np.zeros(ids.shape, dtype=bool)
    for number, found, rle in sorted(masks, key=lambda m: -int(mask_util.area(m[2]))):
        if number > _MOST or numbers[found.label] > _MOST:
            target.lost.add(f"masks beyond {_MOST} objects of an image, or classes", found.where)
            continue
        inside = mask_util.decode(rle) != 0
        if (inside & covered).any():
            target.lost.add(
                "objects whose masks overlap others: a pixel has one object", found.where
            )
        covered |= inside
        ids[inside], classes[inside] = number, numbers[found.label]
    for folder, values in (("SegmentationObject", ids), ("SegmentationClass", classes)):
        name = f"{file_stem(image['file_name'])}.png"
        _write_png(target.folder / folder / name, values, colours)
    return kept


def _write_png(file: Path, values: np.ndarray, colours: list[int]) -> None:
    picture = Image.fromarray(values).convert("P")
    picture.putpalette(colours)
    with replaced_file(file) as temporary:
        picture.save(temporary, "PNG")


def _palette() -> list[int]:
    """The colours of VOC: the bits of the number, three at a time, from the highest bit of each."""
    numbers = np.arange(256)
    bits = (numbers[:, None, None] >> (3 * np.arange(8)[:, None] + np.arange(3))) & 1
    return (bits << (7 - np.arange(8))[:, None]).sum(axis=1).ravel().tolist()
