# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Mean and standard deviation of the pixels of a data set, band by band."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
from detectron2.data.detection_utils import read_image
from detectron2.utils.file_io import PathManager

from ...errors import DataError
from ..pictures import picture_problem

__all__ = ["pixel_statistics"]

_AHEAD = 64  # images that are read before they are counted


def pixel_statistics(
    paths: Sequence[str | os.PathLike],
    *,
    image_format: str = "BGR",
    most: int | None = 500,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> dict:
    """Mean and standard deviation of all pixels, as MODEL.PIXEL_MEAN and PIXEL_STD want them.

    Pictures that Detectron2 reads are read by it, in the order of ``image_format``; others (16 bits,
    two or more than three bands) by OpenCV, whose order of colours is BGR, too.

    Args:
        paths: of the images.
        image_format: INPUT.FORMAT, "BGR", "RGB" or "L".
        most: images to read, evenly from the list; None: all.
        progress: called with stage, done, total.

    Returns:
        dict with "mean" and "std" (a number a band), "images", "bands", "dtype" and "format".

    Raises:
        DataError: an image cannot be read, or has other bands or another type than the first.
    """
    chosen = list(paths)
    if most is not None and len(chosen) > most:
        chosen = [chosen[i] for i in np.linspace(0, len(chosen) - 1, most).astype(int)]
    total, sums, squares = 0, np.zeros(0), np.zeros(0)
    first: tuple | None = None
    done = 0
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(chosen), _AHEAD):
            part = chosen[start : start + _AHEAD]
            read = pool.map(lambda path: _counted(path, image_format), part)
            for path, (number, band_sums, band_squares, kind) in zip(part, read):
                if first is None:
                    first, sums, squares = kind, np.zeros(kind[0]), np.zeros(kind[0])
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
    return {
        "mean": mean.round(3).tolist(),
        "std": std.round(3).tolist(),
        "images": len(chosen),
        "bands": first[0],
        "dtype": first[1],
        "format": image_format,
    }


def _counted(path, image_format: str) -> tuple[int, np.ndarray, np.ndarray, tuple[int, str]]:
    """Pixels, sums and sums of squares of the bands, (bands, type) of a picture."""
    values = _read(path, image_format)
    values = values[:, :, None] if values.ndim == 2 else values
    flat = values.reshape(-1, values.shape[2]).astype(np.float64)
    return len(flat), flat.sum(axis=0), (flat**2).sum(axis=0), (flat.shape[1], str(values.dtype))


def _read(path, image_format: str) -> np.ndarray:
    try:
        problem = picture_problem(path)
        if problem is None or " pages, " in problem:
            return read_image(os.fspath(path), format=image_format)
        with PathManager.open(os.fspath(path), "rb") as file:
            data = np.frombuffer(file.read(), dtype=np.uint8)
        values = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
        if values is None:
            raise ValueError(problem)
        return values
    except Exception as error:  # decoders raise about anything on damaged files
        raise DataError(f"{path}: cannot be read: {type(error).__name__}: {error}.") from error
