# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Run-length encoded masks: their runs, and the part of the image they fill.

COCO's encoding lists the lengths of runs of zeros and ones in turn, column by column. pycocotools
decodes whole images and trusts what it is given; here a mask is decoded where it is, and a damaged
one is found.
"""

from __future__ import annotations

import numpy as np

__all__ = ["mask_crop", "rle_runs"]


def rle_runs(rle: dict) -> np.ndarray:
    """Lengths of the runs of a COCO RLE.

    Args:
        rle: dict with "size" ([height, width]) and "counts": compressed (str or bytes) or a list.

    Returns:
        (R,) int64: lengths of runs of zeros, ones, zeros …; they add up to height · width.

    Raises:
        ValueError: the counts are no such encoding, or do not fill the image.
    """
    height, width = rle["size"]
    counts = rle["counts"]
    if isinstance(counts, (str, bytes)):
        runs = _uncompress(counts.encode("ascii") if isinstance(counts, str) else counts)
    else:
        runs = np.asarray(counts, dtype=np.int64)
    if runs.ndim != 1 or (runs < 0).any() or int(runs.sum()) != height * width:
        raise ValueError(
            f"its runs do not fill an image of {width} x {height} pixels "
            f"(they add up to {int(runs.sum())}, expected {height * width})"
        )
    return runs


def _uncompress(counts: bytes) -> np.ndarray:
    """Numbers of 5 bits a character, low bits first; from the fourth on, differences to the one
    before the last (as in pycocotools' rleFrString)."""
    characters = np.frombuffer(counts, dtype=np.uint8).astype(np.int64) - 48
    if not len(characters):
        return np.zeros(0, dtype=np.int64)
    if characters.min() < 0 or characters.max() > 63 or characters[-1] & 0x20:
        raise ValueError("its counts are not COCO's compressed RLE, or end too early")
    ends = np.flatnonzero((characters & 0x20) == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > 12:  # 60 bits
        raise ValueError("its counts hold a number that is too large")
    place = np.arange(len(characters)) - np.repeat(starts, lengths)
    values = np.add.reduceat((characters & 0x1F) << (5 * place), starts)
    values -= np.where(characters[ends] & 0x10, np.int64(1) << (5 * lengths), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def mask_crop(rle: dict) -> tuple[int, int, np.ndarray]:
    """The smallest part of the image that holds the mask.

    Args:
        rle: a COCO RLE, see :func:`rle_runs`.

    Returns:
        x0, y0 and a (width, height) uint8 array of zeros and ones: columns first, as RLE has them.
        An empty mask gives an array without elements.

    Raises:
        ValueError: see :func:`rle_runs`.
    """
    height = rle["size"][0]
    runs = rle_runs(rle)
    ends = np.cumsum(runs)
    filled = np.flatnonzero(runs[1::2]) * 2 + 1
    if not len(filled):
        return 0, 0, np.zeros((0, 0), dtype=np.uint8)
    x0 = int(ends[filled[0] - 1]) // height
    x1 = int(ends[filled[-1]] - 1) // height + 1
    bounds = np.clip(np.concatenate([[0], ends]), x0 * height, x1 * height)
    values = np.arange(len(runs)) % 2
    columns = np.repeat(values.astype(np.uint8), np.diff(bounds)).reshape(x1 - x0, height)
    rows = np.flatnonzero(columns.any(axis=0))
    y0, y1 = int(rows[0]), int(rows[-1]) + 1
    return x0, y0, columns[:, y0:y1]
