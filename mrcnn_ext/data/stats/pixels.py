# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Mean and standard deviation of the pixels of a data set, band by band."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ...errors import DataError
from ..image_file import ImageReader
from ..pictures import bands_problem, picture_problem
from ..stored_image import open_image

__all__ = ["config_lines", "pixel_statistics"]

# Mean of ImageNet's three, of bytes: what is 1 after normalisation for most weights, and left as it is
# for Detectron2's MSRA weights, whose PIXEL_STD is 1.
IMAGENET_STD = 57.63

_AHEAD = 64  # images that are read before they are counted


def pixel_statistics(
    paths: Sequence[str | os.PathLike],
    *,
    image_format: str = "BGR",
    bands: Sequence[int] | None = None,
    most: int | None = 500,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> dict:
    """Mean and standard deviation of all pixels, as MODEL.PIXEL_MEAN and PIXEL_STD want them.

    If Detectron2 reads the first picture as it is, all are read so, in the order of ``image_format``;
    otherwise (16 bits, floating point, other numbers of bands) by MRCNN_EXT.DATA.BANDS, all of them.

    Args:
        paths: of the images.
        image_format: INPUT.FORMAT, "BGR", "RGB" or "L".
        bands: MRCNN_EXT.DATA.BANDS; None: as said above.
        most: images to read, evenly from the list; None: all.
        progress: called with stage, done, total.

    Returns:
        dict with "mean" and "std" (a number a band), "images", "bands", "dtype" and "format"; where
        they are read by band, also "chosen", the list of them.

    Raises:
        DataError: an image cannot be read, or has other bands or another type than the first.
    """
    chosen = list(paths)
    if most is not None and len(chosen) > most:
        chosen = [chosen[i] for i in np.linspace(0, len(chosen) - 1, most).astype(int)]
    chosen_bands = None if bands is None else list(bands)
    wanted: tuple[int, str] | None = None
    if bands is None and chosen and _needs_bands(chosen[0]):
        stored = _opened(chosen[0])
        wanted = (stored.bands, stored.pixel_type)
        chosen_bands = list(range(stored.bands))
    total, sums, squares = 0, np.zeros(0), np.zeros(0)
    first: tuple | None = None
    done = 0
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(chosen), _AHEAD):
            part = chosen[start : start + _AHEAD]
            read = pool.map(lambda path: _counted(path, image_format, chosen_bands, wanted), part)
            for path, (number, band_sums, band_squares, kind) in zip(part, read):
                if first is None:
                    first, sums, squares = kind, np.zeros(len(band_sums)), np.zeros(len(band_sums))
                if kind != first:
                    raise DataError(
                        f"{path}: has {kind[0]} bands of {kind[1]}, and {chosen[0]} {first[0]} of "
                        f"{first[1]}; expected the same of all images."
                    )
                total, sums, squares = total + number, sums + band_sums, squares + band_squares
                done += 1
                progress("pixels", done, len(chosen))
    if first is None:
        return {}
    mean = sums / total
    std = np.sqrt(np.maximum(squares / total - mean**2, 0))
    found = {
        "mean": mean.round(3).tolist(),
        "std": std.round(3).tolist(),
        "images": len(chosen),
        "bands": len(mean),
        "dtype": first[1],
        "format": image_format,
    }
    if chosen_bands is None:
        return found
    digits = {"mean": _six_digits(mean), "std": _six_digits(std)}  # values may all be below 1
    return {**found, **digits, "chosen": chosen_bands, "format": "by band"}


def config_lines(pixels: dict) -> list[str]:
    """What :func:`pixel_statistics` found, as lines of a yaml config.

    A constant band has the standard deviation 1.
    """
    std = [value or 1.0 for value in pixels["std"]]
    lines = [f"MODEL: {{PIXEL_MEAN: {pixels['mean']}, PIXEL_STD: {std}}}"]
    if "chosen" not in pixels:
        return lines
    small = _six_digits(np.array(std) / IMAGENET_STD)
    return [
        *lines,
        f'MRCNN_EXT: {{DATA: {{BANDS: {pixels["chosen"]}, PIXEL_TYPE: "{pixels["dtype"]}"}}}}',
        f"# for weights whose own PIXEL_STD is 1 (Detectron2's MSRA models): PIXEL_STD: {small}",
    ]


def _six_digits(values: np.ndarray) -> list[float]:
    return [float(f"{value:.6g}") for value in values]


def _counted(
    path, image_format: str, bands: list[int] | None, wanted: tuple[int, str] | None
) -> tuple[int, np.ndarray, np.ndarray, tuple[int, str]]:
    """Pixels, sums and sums of squares of the bands, (bands, type) of a picture.

    One that is not as ``wanted`` has bands that were not asked for, or lacks some: it has no pixels.
    """
    values, kind = _read(path, image_format, bands, wanted)
    flat = values.reshape(-1, values.shape[2]).astype(np.float64)
    if not np.isfinite(flat).all():
        raise DataError(f"{path}: has pixels that are NaN or infinite; write a number there.")
    return len(flat), flat.sum(axis=0), (flat**2).sum(axis=0), kind


def _read(
    path, image_format: str, bands: list[int] | None, wanted: tuple[int, str] | None
) -> tuple[np.ndarray, tuple[int, str]]:
    if bands is None and not _needs_bands(path):
        try:
            values = ImageReader(image_format)(path)
        except Exception as error:  # decoders raise about anything on damaged files
            raise DataError(f"{path}: cannot be read: {type(error).__name__}: {error}.") from error
        values = values if values.ndim == 3 else values[..., None]
        return values, (values.shape[2], str(values.dtype))
    stored = _opened(path)
    kind = (stored.bands, stored.pixel_type)
    if wanted not in (None, kind):
        return np.zeros((0, 0, 1)), kind
    try:
        return stored.values(bands), kind
    except DataError as error:
        raise DataError(f"{path}: {error}.") from error
    except Exception as error:
        raise DataError(f"{path}: cannot be read: {type(error).__name__}: {error}.") from error


def _needs_bands(path) -> bool:
    if os.fspath(path).lower().endswith(".npy"):  # also a damaged one: opening it says why
        return True
    problem = picture_problem(path)
    return (problem is not None and " pages, " not in problem) or bands_problem(path) is not None


def _opened(path):
    try:
        return open_image(path)
    except DataError as error:
        raise DataError(f"{path}: {error}.") from error
    except Exception as error:
        raise DataError(f"{path}: cannot be read: {type(error).__name__}: {error}.") from error
