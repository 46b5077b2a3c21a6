# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Pictures of masks: ids of instances, a colour for each instance, or a file for each instance."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from urllib.parse import unquote

import numpy as np
from PIL import Image

from ....coco.rle import encode_mask
from ....errors import DataError
from ....messages import shorten
from ..builder import Builder, Shape
from ..image_folder import ImageFolder
from ..options import Options

__all__ = ["KINDS", "read_masks"]

KINDS = ("ids", "colours", "files")
_SUFFIXES = {".png", ".bmp", ".tif", ".tiff", ".gif"}
_FOLDERS = {"mask", "masks", "label", "labels", "annotations", "instances", "image", "images"}
_ENDINGS = (
    "_mask",
    "_masks",
    "_label",
    "_labels",
    "_instance",
    "_instances",
    "_instanceids",
    "-mask",
)
# As the writer of this package names them: 0001.ring.png, 0002.ring.crowd.png.
_OWN = re.compile(r"\d+\.(?P<class>[^./]+)(?P<crowd>\.crowd)?")
Size = tuple[int, int]


def read_masks(source: Path, options: Options) -> Builder:
    """Read a folder of masks; ``options.images`` is the folder of their images, or the same one.

    - "ids": 0 is background, every other value an instance, of 8 or 16 bits or with a palette. With
      ``options.class_divisor``, value // divisor is the class; value // divisor * divisor itself,
      an instance 0, is a crowd, as in Cityscapes.
    - "colours": black is background, every other colour an instance.
    - "files": everything that is not 0 is the instance. The files of an image are in a folder that has
      its name (or in ``NAME/masks``), or their names begin with its name and "_" or ".".
    """
    images = ImageFolder(options.images or source)
    pattern = _pattern(options)
    by_image, others = _group(source, images, options)
    if not by_image:
        raise DataError(
            f"{source}: no mask has the name of an image of {images.root}; expected NAME.png, "
            "NAME_mask.png, NAME_1.png or NAME/1.png for the image NAME.jpg."
        )
    builder = Builder(options.classes, images if options.images else None)
    if others:
        names = [file.relative_to(source).as_posix() for file in others]
        builder.notes.append(f"masks whose image is not there: {len(names)} ({shorten(names, 3)})")
    for done, (name, files) in enumerate(sorted(by_image.items()), 1):
        width, height = images.size(name)
        image = builder.image(name, width, height, str(source))
        several = len(files) > 1 or options.kind == "files" or _in_own_folder(files[0], name)
        for file in files:
            values = _values(file, (width, height))
            kind = options.kind or (
                "files" if several else "colours" if values.ndim == 3 else "ids"
            )
            for shape in _shapes(file, source, values, kind, pattern, builder, options):
                builder.add(image, shape)
        options.progress("images", done, len(by_image))
    without = [name for name in images.all() if name not in by_image] if options.images else []
    for name in without:
        builder.image(name, *images.size(name), str(source))
    if without:
        builder.notes.append(f"{len(without)} images have no mask: {shorten(without, 3)}")
    return builder


def _pattern(options: Options) -> re.Pattern | None:
    if options.class_pattern is None:
        return None
    try:
        pattern = re.compile(options.class_pattern)
    except re.error as error:
        raise DataError(f"--class-pattern {options.class_pattern}: {error}.") from error
    if "class" not in pattern.groupindex:
        raise DataError(f"--class-pattern {options.class_pattern}: expected a group (?P<class>…).")
    return pattern


def _group(
    source: Path, images: ImageFolder, options: Options
) -> tuple[dict[str, list[Path]], list[Path]]:
    """The masks of each image, by its path below the folder of images; and those of none."""
    names: dict[str, list[str]] = defaultdict(list)
    for image in images.all():
        names[Path(image).stem].append(image)
    own = {(images.root / image).resolve() for image in images.all()} if images.root else set()
    beside = options.images is None
    found: dict[str, list[Path]] = defaultdict(list)
    others: list[Path] = []
    for file in sorted(p for p in source.rglob("*") if p.suffix.lower() in _SUFFIXES):
        owner = _image_of(file, source, names)
        if owner is None:
            others.append(file)
            continue
        if images.root is not None and (images.root / owner) == file:
            continue
        if beside and file.resolve() in own and _is_picture(file, source):
            continue
        found[owner].append(file)
    return found, others


def _is_picture(file: Path, source: Path) -> bool:
    """Where images and masks are below one folder: those in a folder "images"."""
    return any(part in ("image", "images") for part in file.relative_to(source).parts[:-1])


def _image_of(file: Path, source: Path, names: dict[str, list[str]]) -> str | None:
    parts = file.relative_to(source).parts
    # A folder of the image's name, with the masks in it or in NAME/masks.
    for part in reversed(parts[:-1]):
        if part not in _FOLDERS and part in names:
            return _only(names[part], file)
    stem = file.stem
    for ending in _ENDINGS:
        if stem.lower().endswith(ending) and stem[: -len(ending)] in names:
            return _only(names[stem[: -len(ending)]], file)
    others = [image for image in names.get(stem, ()) if Path(image).name != file.name]
    if stem in names:
        return _only(others or names[stem], file)
    for end in range(len(stem) - 1, 0, -1):  # the longest beginning that is an image's name
        if stem[end] in "_.-" and stem[:end] in names:
            return _only(names[stem[:end]], file)
    return None


def _only(images: list[str], file: Path) -> str:
    if len(images) > 1:
        raise DataError(f"{file}: several images have its name: {shorten(images, 3)}.")
    return images[0]


def _in_own_folder(file: Path, image: str) -> bool:
    return Path(image).stem in file.parts[:-1] or _OWN.fullmatch(file.stem) is not None


def _values(file: Path, size: Size) -> np.ndarray:
    """(H, W) whole numbers, or (H, W, 3) colours."""
    try:
        with Image.open(file) as picture:
            if picture.mode in ("RGBA", "LA", "CMYK"):
                picture = picture.convert("L" if picture.mode == "LA" else "RGB")
            values = np.asarray(picture)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{file}: cannot be read as a picture: {error}.") from error
    if values.dtype.kind not in "uib" or values.ndim not in (2, 3):
        raise DataError(f"{file}: expected whole numbers as its values, they are {values.dtype}.")
    if values.shape[:2] != size[::-1]:
        raise DataError(
            f"{file}: has {values.shape[1]} x {values.shape[0]} pixels, its image {size[0]} x "
            f"{size[1]}."
        )
    return values.astype(np.int64)


def _shapes(
    file: Path,
    source: Path,
    values: np.ndarray,
    kind: str,
    pattern: re.Pattern | None,
    builder: Builder,
    options: Options,
):
    if kind == "colours":
        if values.ndim != 3:
            raise DataError(f"{file}: expected colours, it is grey; --kind ids takes it.")
        values = (values[:, :, 0] << 16) + (values[:, :, 1] << 8) + values[:, :, 2]
    elif values.ndim == 3:
        same = (values[:, :, :1] == values).all()
        if kind == "ids" and not same:
            raise DataError(
                f"{file}: is in colour; expected grey values or a palette (--kind colours)."
            )
        values = values[:, :, 0] if same else values.max(axis=2)
    for value in options.ignore:
        hit = values == value
        if hit.any():
            builder.lost.add(f"masks with pixels of the ignored value {value}", str(file))
            values = np.where(hit, 0, values)
    if kind == "files":
        label, crowd = _class_of(file, source, pattern, options)
        yield Shape(label, str(file), rle=encode_mask(values), crowd=crowd)
        return
    for value in np.unique(values):
        if not value:
            continue
        where = f"{file}: value {value}"
        if kind == "ids" and options.class_divisor is not None:
            number, instance = divmod(int(value), options.class_divisor)
            if not 0 <= number < len(options.classes):
                raise DataError(
                    f"{where}: its class is {number} by --class-divisor {options.class_divisor}, but "
                    f"--classes names {len(options.classes)} of them."
                )
            label, crowd = options.classes[number], instance == 0
        else:
            label, crowd = _class_of(file, source, pattern, options)
        yield Shape(label, where, rle=encode_mask(values == value), crowd=crowd)


def _class_of(
    file: Path, source: Path, pattern: re.Pattern | None, options: Options
) -> tuple[str, bool]:
    """Class and crowd flag, from the path below the source."""
    path = file.relative_to(source).as_posix()
    if pattern is not None:
        match = pattern.search(path)
        if match is None:
            raise DataError(f"{file}: --class-pattern {pattern.pattern} does not match {path}.")
        if not match["class"]:
            raise DataError(
                f"{file}: --class-pattern {pattern.pattern} finds no class in {path}: its group is "
                "empty."
            )
        return match["class"], False
    match = _OWN.fullmatch(file.stem)
    if match is not None:
        return unquote(match["class"]), match["crowd"] is not None
    if len(options.classes) > 1:
        raise DataError(
            f"{file}: nothing says which of the {len(options.classes)} classes it has; expected "
            "--class-pattern or --class-divisor."
        )
    return (options.classes or ["object"])[0], False
