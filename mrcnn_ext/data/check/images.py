# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Find what is wrong with the images of a COCO data set and with their files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from detectron2.utils.file_io import PathManager
from PIL import Image

from ...coco.values import is_id
from ...errors import DataError
from ...messages import describe
from ..image_file import ImageReader
from ..pictures import bands_problem, picture_problem
from ..stored_image import raw_modes
from .patterns import count_text
from .problem import Finding, Problem, Progress

__all__ = ["duplicates", "image_problems", "image_size"]

_EXIF_ORIENTATION = 0x0112
_STEP = 64  # images between two calls of ``progress``


def duplicates(values: list) -> list:
    """Values that come more than once, without None."""
    return [value for value, count in Counter(values).items() if count > 1 and value is not None]


def _id(image: dict) -> Hashable:
    value = image.get("id")
    return value if is_id(value) else None


def image_problems(
    images: list, root: str, decode: bool, report: Progress, reader: ImageReader | None = None
) -> Iterator[Problem]:
    """
    Args:
        reader: of a config; where it chooses bands, files are read by it, not as Detectron2 does.
    """
    for value in duplicates([_id(i) for i in images if isinstance(i, dict)]):
        yield Problem("error", "image-id-duplicate", value, None, f"several images have id {value}")

    turned: list[tuple] = []  # id, orientation
    bands: Counter[int] = Counter()  # of the files

    def look(image) -> list[Finding]:
        if reader is not None and reader.by_band:
            return list(_image(image, root, partial(_read_bands, reader, decode, bands), turned))
        return list(_image(image, root, partial(_read, decode), turned))

    # Decoding releases the interpreter lock; on network storage, waiting does.
    with ThreadPoolExecutor(min(32, 4 + (os.cpu_count() or 1))) as pool:
        for index, findings in enumerate(pool.map(look, images)):
            image = images[index]
            for severity, kind, message in findings:
                image_id = image.get("id") if isinstance(image, dict) else None
                yield Problem(severity, kind, image_id, None, message)
            if index % _STEP == 0 or index + 1 == len(images):
                report("images", index + 1, len(images))
    if len(bands) > 1:
        numbers = ", ".join(f"{count} with {number}" for number, count in bands.most_common())
        text = f"the images have other numbers of bands: {numbers}; is band 0 the same in all?"
        yield Problem("warning", "image-bands", None, None, text)
    if turned:
        image_id, orientation = min(turned, key=lambda entry: str(entry[0]))
        text = (
            f"{count_text(len(turned), len(images), 'images')} have an EXIF orientation, which "
            f"Detectron2 applies ({orientation} here), and whose sizes do not tell whether the "
            "annotations were made on the turned image: look at one, or save the images upright"
        )
        yield Problem("warning", "image-orientation", image_id, None, text)


def _image(
    image, root: str, read: Callable[[str], tuple[int, int, int, bool]], turned: list[tuple]
) -> Iterator[Finding]:
    if not isinstance(image, dict):
        yield "error", "image-format", f"an entry of images is {image!r:.60}, not a dict"
        return
    name = image.get("file_name")
    if _id(image) is None:
        text = f"the image with file_name {describe(name, 200)} has no id"
        yield "error", "image-id-missing", text
    size = image_size(image)
    if size is None:
        stated = (image.get("height"), image.get("width"))
        text = f"height and width are {describe(stated[0])} and {describe(stated[1])}, "
        text += "not two positive integers"
        yield "error", "image-height-width", text
    if not isinstance(name, str) or not name:
        text = f"file_name is {describe(name, 200)}, not the name of a file"
        yield "error", "image-file-name", text
        return
    path = os.path.join(root, name)
    if os.path.exists(path) and not os.path.isfile(path):  # reading a pipe would never end
        yield "error", "image-unreadable", f"{path} is no file"
        return
    try:
        height, width, orientation, odd = read(path)
    except FileNotFoundError:
        yield "error", "image-missing", f"there is no file {path}"
        return
    except DataError as error:  # which names the file
        yield "error", "image-bands", str(error).rstrip(".")
        return
    except Exception as error:  # decoders raise about anything on damaged files
        wrong = picture_problem(path) or bands_problem(path)
        if wrong is not None:
            yield "error", "image-content", f"{path} {wrong}"
        else:
            text = f"{path} cannot be read: {type(error).__name__}: {error}"
            yield "error", "image-unreadable", text
        return
    wrong = (picture_problem(path) or bands_problem(path)) if odd else None
    if wrong is not None:
        # Of several pages, the first may be meant; colours of 16 bits are reduced to 8.
        mild = " pages, " in wrong or " reduces " in wrong
        yield "warning" if mild else "error", "image-content", f"{path} {wrong}"
    if size is not None and size != (height, width):
        exchanged = orientation >= 5 and size == (width, height)
        text = f"{path} is {width}x{height} pixels, the json says {size[1]}x{size[0]}"
        if exchanged:
            text += f"; its EXIF orientation {orientation} turns it, and Detectron2 applies that"
        yield "error", "image-size", text
    elif orientation != 1 and (orientation < 5 or height == width):
        turned.append((image.get("id"), orientation))


def _read_bands(
    reader: ImageReader, decode: bool, bands: Counter, path: str
) -> tuple[int, int, int, bool]:
    """As :func:`_read`, of bands; they are counted."""
    if not os.path.exists(path):
        raise FileNotFoundError(path)
    stored = reader.open(path)
    bands[stored.bands] += 1
    if decode:
        reader(path)
    return stored.height, stored.width, 1, False


def _read(decode: bool, path: str) -> tuple[int, int, int, bool]:
    """Height, width as Detectron2's ``read_image`` gets them, the EXIF orientation, and whether
    :func:`picture_problem` may have something to say."""
    with PathManager.open(path, "rb") as file, Image.open(file) as image:
        width, height = image.size
        odd = image.format == "TIFF" or image.mode.startswith(("I", "F"))
        odd = odd or any(";16" in mode for mode in raw_modes(image))
        if decode:
            image.draft(None, (1, 1))  # a jpeg is read to its end, but not all pixels are computed
            image.load()
        try:
            orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
        except Exception:  # as Detectron2: broken EXIF data is none
            orientation = 1
    if not isinstance(orientation, int) or not 1 <= orientation <= 8:
        orientation = 1
    size = (width, height) if orientation >= 5 else (height, width)
    return *size, orientation, odd


def image_size(image: dict) -> tuple[int, int] | None:
    height, width = image.get("height"), image.get("width")
    if type(height) is not int or type(width) is not int or min(height, width) <= 0:
        return None
    # pycocotools counts a mask's pixels in 32 bits.
    return (height, width) if height * width < 2**31 else None
