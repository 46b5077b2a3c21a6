# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Find pictures that Detectron2 reads wrongly without a word, or not at all."""

from __future__ import annotations

import os
from contextlib import suppress

from detectron2.utils.file_io import PathManager
from PIL import Image

from .stored_image import open_image

__all__ = ["bands_problem", "picture_problem", "upright_size"]

_SUBFILE_TYPE, _REDUCED = 254, 1  # TIFF: a page may be a smaller copy of another
_EXIF_ORIENTATION = 0x0112


def picture_problem(path: str | os.PathLike) -> str | None:
    """Say what Detectron2's ``read_image`` gets wrong about a picture, and what to do.

    Only the head of the file is read. A file that cannot be opened for another reason (it is
    missing, damaged, no picture) gives None: the error of reading it says why.

    Args:
        path: any that Detectron2's ``PathManager`` opens.

    Returns:
        A sentence without its subject and full stop, such as "has 3 pages, of which only …"; None if
        there is nothing to say.
    """
    try:
        with PathManager.open(os.fspath(path), "rb") as file, Image.open(file) as image:
            return _depth_problem(image.mode) or _page_problem(image)
    except Image.DecompressionBombError:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6
        return (
            f"has more than the {most:.0f} million pixels that Pillow opens: reduce it, or cut it "
            "into tiles"
        )
    except Exception:  # Pillow raises many kinds
        return None


def _depth_problem(mode: str) -> str | None:
    # Other kinds of 16 bits, such as colour, are reduced to 8 when they are opened.
    if not mode.startswith(("I", "F")):
        return None
    what = "floating-point" if mode.startswith("F") else "16-bit" if ";16" in mode else "32-bit"
    return (
        f"holds {what} grey values, which Detectron2 cuts off at 255: name its bands in "
        "MRCNN_EXT.DATA.BANDS, or save it with 8 bits, its values scaled to 0 … 255, in the same way "
        "for training and prediction"
    )


def _page_problem(image: Image.Image) -> str | None:
    if image.format != "TIFF" or getattr(image, "n_frames", 1) == 1:
        return None
    pages = 0
    for index in range(image.n_frames):  # type: ignore[attr-defined]
        image.seek(index)
        pages += not image.tag_v2.get(_SUBFILE_TYPE, 0) & _REDUCED  # type: ignore[attr-defined]
    if pages <= 1:
        return None
    return f"has {pages} pages, of which Detectron2 reads the first: save each as a file of its own"


def bands_problem(path: str | os.PathLike) -> str | None:
    """Say what of a file only ``MRCNN_EXT.DATA.BANDS`` reads: its bands, or its type.

    Args:
        path: any that Detectron2's ``PathManager`` opens.

    Returns:
        As :func:`picture_problem`; None for pictures of 8 bits, and for what cannot be read at all.
    """
    try:
        stored = open_image(path)
    except Exception:  # decoders raise about anything on damaged files
        return None
    is_picture = not os.fspath(path).lower().endswith(".npy")
    if is_picture and stored.pixel_type == "uint8" and stored.bands in (1, 2, 3, 4):  # with alpha
        return None
    bands = f"{stored.bands} band" + "s" * (stored.bands != 1)
    reduced = is_picture and stored.bands in (3, 4)
    what = "reduces to 8 bits" if reduced else "does not read as they are"
    return (
        f"has {bands} of {stored.pixel_type}, which Detectron2 {what}: name the bands in "
        "MRCNN_EXT.DATA.BANDS, and the type in MRCNN_EXT.DATA.PIXEL_TYPE"
    )


def upright_size(path: str | os.PathLike) -> tuple[int, int]:
    """Width and height of a picture as Detectron2 reads it: EXIF's orientation is applied.

    Raises:
        OSError, ValueError, SyntaxError: of Pillow, where it is no picture.
    """
    try:
        return _opened_size(path)
    except (OSError, ValueError):
        with suppress(Exception):  # one of many bands
            stored = open_image(path)
            return stored.width, stored.height
        raise


def _opened_size(path: str | os.PathLike) -> tuple[int, int]:
    with PathManager.open(os.fspath(path), "rb") as file, Image.open(file) as image:
        width, height = image.size
        try:
            turned = image.getexif().get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
        except Exception:  # as Detectron2: broken EXIF data is none
            turned = False
    return (height, width) if turned else (width, height)
