# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Image files with any number of bands, as they are stored: no value is scaled or cut off."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from detectron2.utils.file_io import PathManager
from PIL import Image

from ..errors import DataError

__all__ = ["StoredImage", "open_image", "raw_modes"]

_ORIENTATION = 0x0112  # the tag of EXIF, and of TIFF
_BITS, _PHOTOMETRIC, _SAMPLES, _PLANAR = 258, 262, 277, 284  # tags of TIFF
_WHITE_IS_ZERO = 0
_NPY = b"\x93NUMPY"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Modes whose values Pillow gives as the file has them; the bands are those of their names.
_AS_STORED = ("L", "LA", "RGB", "RGBA", "CMYK", "F")
# What a TIFF's metadata say of other files is not followed.
_BY_ITSELF: dict[str, Any] = {"is_ome": False, "is_mmstack": False}
# EXIF's orientation -> how rows and columns are put upright: exchanged, then mirrored.
_UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


@dataclass(frozen=True)
class StoredImage:
    """What a file says of itself, and how its values are got.

    Attributes:
        height, width: upright, in pixels.
        bands: how many.
        pixel_type: NumPy's name of the type, such as "uint16".
        read: gives the pixels (height, width, bands), upright; may be a view into the file.
    """

    height: int
    width: int
    bands: int
    pixel_type: str
    read: Callable[[], np.ndarray]

    def values(self, bands: Sequence[int] | None = None) -> np.ndarray:
        """The chosen bands in their order, (height, width, bands); None: all.

        Raises:
            DataError: the file has not so many bands. Other exceptions come from a damaged file.
        """
        if bands is not None and max(bands) >= self.bands:
            raise DataError(
                f"has {self.bands} bands; there is no band {max(bands)}, counted from 0"
            )
        pixels = self.read()
        return pixels if bands is None else np.ascontiguousarray(pixels[..., list(bands)])


def open_image(path: str | os.PathLike) -> StoredImage:
    """Open an image: npy, TIFF, and what Pillow opens (png, jpeg, webp, …), with 16 bits, too.

    Bands are counted in the order of the file, which is red, green, blue (and alpha) for pictures. A
    palette is resolved to its colours. EXIF's orientation is applied, as Detectron2 does.

    Args:
        path: any that Detectron2's ``PathManager`` opens.

    Raises:
        DataError: the format, or what it needs, is not known here; a sentence without its subject.
        Other exceptions, of many kinds, where the file is missing or damaged.
    """
    name = os.fspath(path)
    if name.lower().endswith(".npy"):
        return _npy(name)
    with PathManager.open(name, "rb") as file:
        data = file.read()
    try:
        with Image.open(io.BytesIO(data)) as image:
            found = _pillow(image, data)
    except Image.DecompressionBombError as error:
        raise DataError(_too_many()) from error
    except Image.UnidentifiedImageError:
        found = None
    except ValueError:  # of a TIFF with more bands than its tags tell
        if data[:4] not in _TIFF:
            raise
        found = None
    if found is None and data[:4] in _TIFF:
        return _tiff(data)
    if found is None:
        raise DataError("is no npy file, and no image that can be read")
    return found


def _too_many() -> str:
    most = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6
    return f"has more than {most:.0f} million pixels: reduce it, or cut it into tiles"


def _described(
    shape: Sequence[int], dtype, read: Callable[[], np.ndarray], orientation: int = 1
) -> StoredImage:
    height, width, bands = shape
    turn = _UPRIGHT.get(orientation)
    if orientation >= 5 and turn is not None:
        height, width = width, height
    name = np.dtype(dtype).newbyteorder("=").name
    return StoredImage(height, width, bands, name, read if turn is None else lambda: turn(read()))


# -------------------------------------------------------------------------------------------- npy


def _npy(name: str) -> StoredImage:
    # Memory-mapped: bands that nobody asked for are not read.
    path = PathManager.get_local_path(name)
    with open(path, "rb") as file:
        start = file.read(len(_NPY))
    if start and start != _NPY:  # np.load would advise to unpickle it
        raise DataError("is no npy file: it does not begin as np.save writes it")
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray) or array.ndim not in (2, 3):
        shape = getattr(array, "shape", type(array).__name__)
        raise DataError(
            f"holds an array {shape}; expected (height, width) or (height, width, bands)"
        )
    if array.dtype.kind not in "biufc":
        raise DataError(f"holds an array of {array.dtype}; expected numbers")
    if 0 in array.shape:
        raise DataError(f"holds an empty array {array.shape}; expected (height, width, bands)")
    pixels = array if array.ndim == 3 else array[..., None]
    return _described(pixels.shape, pixels.dtype, lambda: pixels)


# ------------------------------------------------------------------------------------------ Pillow


def _pillow(image: Image.Image, data: bytes) -> StoredImage | None:
    """None: Pillow does not give the values as they are stored."""
    raw = raw_modes(image)
    wide = any(";16" in mode for mode in raw)
    if image.format == "TIFF" and not _is_plain(image):
        return None
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # as Detectron2: broken EXIF data is none
        orientation = 1
    orientation = orientation if isinstance(orientation, int) else 1
    size = (image.height, image.width)
    if wide and not image.mode.startswith("I"):  # colours, which Pillow reduces to 8 bits
        bands = 2 if raw[0].startswith("LA") else len(image.getbands())
        return _opencv(data, size, bands, orientation)
    # Pillow turns the 8 bits of such a file over, but not its 16 bits.
    inverted = (
        image.format == "TIFF"
        and image.mode in ("1", "L")
        and (
            image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO  # type: ignore[attr-defined]
        )
    )
    if image.mode in ("1", "P", "PA"):
        has_alpha = image.mode == "PA" or "transparency" in image.info
        image = image.convert("L" if image.mode == "1" else "RGBA" if has_alpha else "RGB")
    elif image.mode.startswith("I"):
        dtype = "uint16" if wide or ";16" in image.mode else "int32"
        pixels = _pixels(data, lambda picture: np.asarray(picture).astype(dtype))
        return _described((*size, 1), dtype, pixels, orientation)
    elif image.mode not in _AS_STORED:
        raise DataError(
            f"has the colour mode {image.mode} of Pillow, whose values are not as stored"
        )
    mode = image.mode

    def stored(picture: Image.Image) -> np.ndarray:
        values = np.asarray(_as_mode(picture, mode))
        return ~values if inverted else values

    pixels = _pixels(data, stored)
    dtype = "float32" if mode == "F" else "uint8"
    return _described((*size, len(image.getbands())), dtype, pixels, orientation)


def _is_plain(image: Image.Image) -> bool:
    """Whether Pillow gives the values of a TIFF as they are stored: one page of grey or colours."""
    tags = image.tag_v2  # type: ignore[attr-defined]
    bits, number = {*tags.get(_BITS, (1,))}, tags.get(_SAMPLES, 1)
    if getattr(image, "n_frames", 1) > 1 or tags.get(_PLANAR, 1) != 1:
        return False
    if number == 1:
        return image.mode in ("1", "L", "P", "I;16", "I;16B", "F")
    return bits == {8} and (number, image.mode) in ((3, "RGB"), (4, "RGBA"), (4, "CMYK"))


def raw_modes(image: Image.Image) -> list[str]:
    """How the file stores pixels, in Pillow's terms, such as "RGB;16B"."""
    arguments = (getattr(tile, "args", tile[3]) for tile in getattr(image, "tile", ()))
    found = (a[0] if isinstance(a, tuple) and a else a for a in arguments)
    return [mode for mode in found if isinstance(mode, str)]


def _as_mode(image: Image.Image, mode: str) -> Image.Image:
    return image if image.mode == mode else image.convert(mode)


def _pixels(data: bytes, convert: Callable[[Image.Image], np.ndarray]) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        with Image.open(io.BytesIO(data)) as image:
            pixels = convert(image)
        return pixels if pixels.ndim == 3 else pixels[..., None]

    return read


def _opencv(data: bytes, size: tuple[int, int], bands: int, orientation: int) -> StoredImage:
    def read() -> np.ndarray:
        pixels = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
        if pixels is None or pixels.dtype != np.uint16:
            raise DataError("cannot be decoded with 16 bits")
        pixels = pixels.reshape(*size, -1)
        if bands == 2:  # grey and alpha, of which OpenCV makes four
            return pixels[..., [0, -1]]
        return pixels[..., [2, 1, 0, *range(3, bands)]]

    return _described((*size, bands), "uint16", read, orientation)


# -------------------------------------------------------------------------------------------- TIFF


def _tiff(data: bytes) -> StoredImage:
    try:
        import tifffile
    except ImportError as error:
        raise DataError(
            "is a TIFF that Pillow and OpenCV do not read as it is stored: pip install tifffile "
            "imagecodecs (or 'mrcnn_ext[bands]')"
        ) from error
    with tifffile.TiffFile(io.BytesIO(data), **_BY_ITSELF) as file:
        series = file.series[0]
        page = series.keyframe
        axes, shape, dtype = series.axes, series.shape, series.dtype
        tag = page.tags.get("Orientation")
        orientation = int(tag.value) if tag is not None else 1
        if page.photometric == tifffile.PHOTOMETRIC.PALETTE:
            raise DataError("has a palette; expected values of bands")
    # Samples of a pixel, or pages of one size: either are the bands.
    others = [i for i, axis in enumerate(axes) if axis not in "YX" and shape[i] > 1]
    if "Y" not in axes or "X" not in axes or len(others) > 1 or dtype is None:
        raise DataError(f"has the axes {axes} {tuple(shape)}; expected height, width and bands")
    most = 2 * (Image.MAX_IMAGE_PIXELS or 0)  # as Pillow: a file may say it has any number
    if most and shape[axes.index("Y")] * shape[axes.index("X")] > most:
        raise DataError(_too_many())
    order = [axes.index("Y"), axes.index("X"), *others]
    ones = [i for i in range(len(axes)) if i not in order]
    bands = shape[others[0]] if others else 1

    def read() -> np.ndarray:
        try:
            with tifffile.TiffFile(io.BytesIO(data), **_BY_ITSELF) as file:
                pixels = file.series[0].asarray()
        except ValueError as error:
            if "imagecodecs" in str(error):
                found = re.search(r"COMPRESSION\.(\w+)", str(error))
                raise DataError(
                    f"is compressed ({found[1] if found else 'in some way'}), for which tifffile needs "
                    "imagecodecs: pip install imagecodecs (or 'mrcnn_ext[bands]')"
                ) from error
            raise
        pixels = pixels.transpose(*order, *ones)
        return pixels.reshape(*pixels.shape[:2], bands)

    return _described((shape[order[0]], shape[order[1]], bands), dtype, read, orientation)
