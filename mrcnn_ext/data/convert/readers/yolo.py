# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""YOLO: a yaml of class names, a text file of fractions for each image; boxes, outlines, keypoints."""

from __future__ import annotations

from pathlib import Path

from ....config.safe_yaml import read_yaml
from ....errors import DataError
from ....messages import describe, shorten
from ..builder import Builder, Shape
from ..image_folder import PICTURES, ImageFolder
from ..options import Options
from ..values import is_true, number, text

__all__ = ["read_yolo"]

# supervision (MIT) reads these files, too, but holds masks as dense arrays of all images at once, and
# drops keypoints; the lines are simple enough.

_PARTS = ("train", "val", "test", "minival")
_MOST_KEYPOINTS = 1000
_SLACK = 0.01  # by which a fraction may be beyond 0 … 1, for rounding


def read_yolo(source: Path, options: Options) -> Builder:
    """Read a data set as Ultralytics' data.yaml describes it.

    Args:
        source: the yaml, or the folder that it is in.
    """
    file = _yaml_file(source)
    content = read_yaml(str(file))
    names = _names(content.get("names"), f"{file}: names")
    keypoints, pairs = _keypoints(content, file, options)
    root = _root(file, content)
    images = ImageFolder(options.images or root)
    builder = Builder(names, images)
    for name in names if keypoints else ():
        builder.declare(name, keypoints, pairs=pairs)
    wanted = options.part
    parts = {part: content[part] for part in _PARTS if content.get(part)}
    if wanted is not None and wanted not in parts:
        raise DataError(f"{file}: there is no part {wanted!r}; expected one of {', '.join(parts)}.")
    if not parts:
        raise DataError(f"{file}: expected the images' folders as train, val or test.")
    listed = [
        (part, path)
        for part, folders in parts.items()
        if wanted in (None, part)
        for path in _pictures(root, file, part, folders)
    ]
    twice = 0
    read: set[Path] = set()
    for done, (part, path) in enumerate(listed, 1):
        name = _relative(path, images)
        if builder.has_image(name):
            twice += 1
            continue
        width, height = images.size(name)
        more = {"part": part} if wanted is None and len(parts) > 1 else {}
        image = builder.image(name, width, height, str(path), **more)
        labels = _label_file(path)
        read.add(labels)
        if labels.is_file():
            dims = content["kpt_shape"][1] if keypoints else 0
            for shape in _shapes(labels, names, keypoints, dims, (width, height)):
                builder.add(image, shape)
        options.progress("images", done, len(listed))
    if wanted is None:
        _note_labels_alone(read, builder)
    if twice:
        builder.notes.append(f"{twice} images are in several parts; they were taken once")
    if wanted is None and len(parts) > 1:
        builder.notes.append(
            f"the parts {', '.join(parts)} are together in one json; --part NAME takes one of them"
        )
    return builder


def _yaml_file(source: Path) -> Path:
    if source.is_file():
        return source
    files = sorted([*source.glob("*.yaml"), *source.glob("*.yml")])
    named = [file for file in files if file.stem in ("data", "dataset")]
    if len(named or files) != 1:
        there = f"there are {len(files)} yaml files" if files else "there is no yaml file"
        raise DataError(f"{source}: {there}; name the one with the class names.")
    return (named or files)[0]


def _names(names, where: str) -> list[str]:
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise DataError(f"{where}: expected the numbers from 0 to {len(names) - 1} as keys.")
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, list) or not names:
        raise DataError(f"{where} is {describe(names)}, expected a list of class names.")
    found = [text(name, f"{where}[{index}]") for index, name in enumerate(names)]
    if len(set(found)) < len(found):
        raise DataError(f"{where}: a name is there twice.")
    return found


def _keypoints(content: dict, file: Path, options: Options):
    """Names of the keypoints, and pairs of left and right; empty if there are none."""
    shape = content.get("kpt_shape")
    if shape is None:
        return [], None
    good = isinstance(shape, list) and len(shape) == 2 and all(type(n) is int for n in shape)
    if not good or not 1 <= shape[0] <= _MOST_KEYPOINTS or shape[1] not in (2, 3):
        raise DataError(
            f"{file}: kpt_shape is {describe(shape)}, expected [number up to {_MOST_KEYPOINTS}, "
            "2 or 3]."
        )
    given = content.get("kpt_names")
    given = next(iter(given.values()), None) if isinstance(given, dict) else given
    names = options.keypoints or given or [f"keypoint_{i}" for i in range(1, shape[0] + 1)]
    if not isinstance(names, list) or len(names) != shape[0]:
        raise DataError(
            f"{file}: kpt_shape says {shape[0]} keypoints, their names are {describe(names)}."
        )
    names = [text(name, f"{file}: kpt_names[{index}]") for index, name in enumerate(names)]
    if len(set(names)) < len(names):
        raise DataError(f"{file}: kpt_names: a name is there twice.")
    flips = content.get("flip_idx")
    if flips is None:
        return names, None
    whole = isinstance(flips, list) and all(type(place) is int for place in flips)
    if not whole or sorted(flips) != list(range(shape[0])):
        raise DataError(
            f"{file}: flip_idx is {describe(flips)}, expected each of 0 … {shape[0] - 1}."
        )
    return names, [(names[a], names[b]) for a, b in enumerate(flips) if a < b]


def _root(file: Path, content: dict) -> Path:
    """The folder that the parts are relative to; a path of another computer is not there."""
    path = content.get("path")
    if isinstance(path, str) and path:
        for folder in (file.parent / path, Path(path)):
            if folder.is_dir():
                return folder
    return file.parent


def _pictures(root: Path, file: Path, part: str, folders) -> list[Path]:
    found: list[Path] = []
    for folder in folders if isinstance(folders, list) else [folders]:
        if not isinstance(folder, str):
            raise DataError(f"{file}: {part} is {describe(folder)}, expected a folder.")
        # Roboflow writes "../train/images" for what is beside the yaml.
        tries = [root / folder, file.parent / folder, root / folder.lstrip("./")]
        path = next((path for path in tries if path.exists()), None)
        if path is None:
            raise DataError(f"{file}: {part}: there is no {tries[0]}.")
        if path.is_dir():
            found += (p for p in path.rglob("*") if p.suffix.lower() in PICTURES)
        else:
            try:
                lines = path.read_text(encoding="utf-8-sig").split("\n")
            except (OSError, ValueError) as error:
                raise DataError(f"{path}: cannot be read: {error}.") from error
            found += (
                path.parent / line[2:] if line.startswith("./") else root / line
                for line in (line.strip().replace("\\", "/") for line in lines)
                if line
            )
    return sorted(set(found))


def _relative(path: Path, images: ImageFolder) -> str:
    assert images.root is not None
    try:
        return path.resolve().relative_to(images.root.resolve()).as_posix()
    except ValueError:
        found = images.find(path.name)
        if found is None:
            raise DataError(f"there is no picture {path} below {images.root}.") from None
        return found


def _label_file(picture: Path) -> Path:
    """The last folder "images" of the path becomes "labels"."""
    parts = list(picture.parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] == "images":
            parts[index] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _note_labels_alone(read: set[Path], builder: Builder) -> None:
    """Note label files whose picture is not there."""
    files = {file for folder in {file.parent for file in read} for file in folder.glob("*.txt")}
    # Beside pictures there may be lists of classes and parts, too.
    alone = sorted(
        str(f) for f in files - read if "labels" in f.parent.parts and f.name != "classes.txt"
    )
    if alone:
        builder.notes.append(
            f"label files whose picture is not there: {len(alone)} ({shorten(alone, 3)})"
        )


def _shapes(file: Path, names: list[str], keypoints: list[str], dims: int, size: tuple[int, int]):
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read: {error}.") from error
    for place, line in enumerate(lines, 1):
        words, where = line.split(), f"{file}, line {place}"
        if not words:
            continue
        label = number(words[0], f"{where}: the class")
        if label != int(label) or not 0 <= label < len(names):
            raise DataError(f"{where}: the class is {words[0]}, expected 0 … {len(names) - 1}.")
        values = [number(word, f"{where}: a value") for word in words[1:]]
        yield _shape(names[int(label)], values, keypoints, dims, size, where)


def _shape(
    label: str,
    values: list[float],
    keypoints: list[str],
    dims: int,
    size: tuple[int, int],
    where: str,
) -> Shape:
    width, height = size
    if keypoints:
        wanted = 4 + dims * len(keypoints)
        if len(values) != wanted:
            raise DataError(
                f"{where}: there are {len(values)} values after the class, expected {wanted}: a box "
                f"and {len(keypoints)} keypoints of {dims} values."
            )
    elif len(values) != 4 and (len(values) < 6 or len(values) % 2):
        raise DataError(
            f"{where}: there are {len(values)} values after the class, expected 4 (a box) or at least "
            "three points."
        )
    if keypoints or len(values) == 4:
        _check_fractions(values[:4], where)
        x, y, w, h = values[:4]
        box = ((x - w / 2) * width, (y - h / 2) * height, w * width, h * height)
        points = {
            name: _point(values[4 + dims * i : 4 + dims * (i + 1)], size, where)
            for i, name in enumerate(keypoints)
        }
        return Shape(label, where, box=box, keypoints=points)
    _check_fractions(values, where)
    polygon = [value * size[index % 2] for index, value in enumerate(values)]
    return Shape(label, where, polygons=[polygon])


def _check_fractions(values: list[float], where: str) -> None:
    if any(not -_SLACK <= value <= 1 + _SLACK for value in values):
        raise DataError(f"{where}: a value is outside 0 … 1; expected fractions of the image.")


def _point(values: list[float], size: tuple[int, int], where: str) -> tuple[float, float, int]:
    # Without visibility, a point at (0, 0) is one that was not labelled.
    visible = values[2] if len(values) == 3 else 2 * is_true(any(values))
    if visible not in (0, 1, 2):
        raise DataError(
            f"{where}: the visibility of a keypoint is {visible:g}, expected 0, 1 or 2."
        )
    return values[0] * size[0], values[1] * size[1], int(visible)
