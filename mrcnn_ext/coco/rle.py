# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Run-length encoded masks: from any form of segmentation, their runs, and the part they fill.

COCO's encoding lists the lengths of runs of zeros and ones in turn, column by column. pycocotools
decodes whole images and trusts what it is given: a damaged string gives it a wrong mask or a wild
size. Here damage is found, and a mask is decoded where it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pycocotools import mask as mask_util

from ..messages import describe
from .values import is_whole

__all__ = ["FARTHEST", "box_rle", "encode_mask", "is_rle_list", "mask_crop", "rle_areas", "rle_box"]
__all__ += ["rle_counts", "rle_runs", "text_rle", "to_rle"]

_CHARACTERS = 7  # of one number: 35 bits; pycocotools keeps 32
_MOST_PIXELS = 2**32 - 1
FARTHEST = 1e6  # pixels, of a polygon's points
_OUTLINE = 4e6  # pixels, in any image; drawing a polygon takes 100 bytes for each of its outline
_MOST_DECODED = 2**28  # pixels of a part of an image
_MASKS_PER_CALL = 255  # of pycocotools' area: it counts them in eight bits


# ------------------------------------------------------------------------------------- conversion


def to_rle(segmentation, height: int, width: int) -> dict:
    """Any form of segmentation as compressed RLE, checked.

    Args:
        segmentation: list of polygons [x1, y1, x2, y2, ...], which are united (those of fewer than
            three points are left out); RLE, uncompressed or compressed (str or bytes); list of RLEs,
            which are united; or a dense mask, an array or tensor (height, width).
        height, width: of the image, in pixels.

    Returns:
        dict with "size", [height, width], and "counts", str if they were given so, else bytes.

    Raises:
        ValueError: it is none of these, is damaged, or has another size than the image.
    """
    if isinstance(segmentation, dict):
        return _checked(segmentation, height, width)
    if isinstance(segmentation, (list, tuple)):
        if any(isinstance(part, dict) for part in segmentation):
            return mask_util.merge([to_rle(part, height, width) for part in segmentation])
        return _drawn(segmentation, height, width)
    if hasattr(segmentation, "shape"):
        _check_size(tuple(segmentation.shape), height, width)
        return encode_mask(segmentation)
    raise ValueError(
        f"its segmentation is neither polygons nor RLE nor a mask, but {describe(segmentation)}"
    )


def _checked(rle: dict, height: int, width: int) -> dict:
    if not {"size", "counts"} <= rle.keys():
        raise ValueError("its segmentation is no RLE with 'size' and 'counts'")
    _check_size(_size(rle), height, width)
    runs = rle_runs(rle)
    if isinstance(rle["counts"], (str, bytes)):
        return {"size": [height, width], "counts": rle["counts"]}
    return mask_util.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)


def _drawn(polygons: Sequence, height: int, width: int) -> dict:
    try:
        kept = [np.asarray(p, dtype=np.float64) for p in polygons if len(p) >= 6]
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"its polygons are not lists of numbers ({error})") from error
    for polygon in kept:
        if polygon.ndim != 1:
            raise ValueError("its polygons are not flat lists of numbers [x1, y1, x2, y2, ...]")
        if not (np.abs(polygon) < FARTHEST).all():
            raise ValueError(f"a polygon has coordinates that are NaN or beyond {FARTHEST:g}")
        points = polygon[: len(polygon) // 2 * 2].reshape(-1, 2)
        steps = np.abs(points - np.roll(points, 1, axis=0)).max(axis=1)
        if steps.sum() > _OUTLINE + 4 * height * width:
            raise ValueError(
                f"a polygon's outline is {steps.sum():.3g} pixels long, too long for an image of "
                f"{width} x {height}"
            )
    if not kept:
        return encode_mask(np.zeros((height, width), dtype=np.uint8))
    rles = mask_util.frPyObjects([polygon.tolist() for polygon in kept], height, width)
    return rles[0] if len(rles) == 1 else mask_util.merge(rles)


def _check_size(size: tuple[int, ...], height: int, width: int) -> None:
    if size != (height, width):
        pixels = " x ".join(map(str, reversed(size)))
        raise ValueError(f"a mask of {pixels} pixels, but the image has {width} x {height}")


def encode_mask(mask) -> dict:
    """Compressed RLE (bytes) of a dense mask: array or CPU tensor (height, width), not 0 is inside."""
    return mask_util.encode(np.asfortranarray(np.asarray(mask) != 0).view(np.uint8))


def box_rle(box: Sequence[float], height: int, width: int) -> dict:
    """Compressed RLE (bytes) of a filled box, as pycocotools draws it.

    Args:
        box: x, y, width, height in pixels; what is outside of the image is cut off.
        height, width: of the image, in pixels.
    """
    x, y, box_width, box_height = box
    # Cut first: a box may be so far away that drawing it would take all memory.
    x0, x1 = np.clip([x, x + box_width], 0, width)
    y0, y1 = np.clip([y, y + box_height], 0, height)
    if not (x1 > x0 and y1 > y0):
        return encode_mask(np.zeros((height, width), dtype=np.uint8))
    cut = np.array([[x0, y0, x1 - x0, y1 - y0]], dtype=np.float64)
    return mask_util.frPyObjects(cut, height, width)[0]


def is_rle_list(segmentation) -> bool:
    """Whether a segmentation is several RLEs, whose union is the mask."""
    return isinstance(segmentation, list) and any(isinstance(part, dict) for part in segmentation)


def text_rle(rle: dict) -> dict:
    """A compressed RLE as json can hold it: size as a list, counts as str."""
    counts = rle["counts"]
    text = counts.decode("ascii") if isinstance(counts, bytes) else counts
    return {"size": list(rle["size"]), "counts": text}


# ------------------------------------------------------------------------------------------- runs


def rle_runs(rle: dict) -> np.ndarray:
    """Lengths of the runs of a COCO RLE.

    Args:
        rle: dict with "size" ([height, width]) and "counts": compressed (str or bytes) or a list.

    Returns:
        (R,) int64: lengths of runs of zeros, ones, zeros …; they add up to height · width.

    Raises:
        ValueError: the counts are no such encoding, or do not fill the image.
    """
    height, width = _size(rle)
    total = height * width
    runs = rle_counts(rle["counts"])
    # A single run is looked at first, so that the sum cannot overflow.
    if len(runs) and runs.max() > total:
        raise ValueError(f"a run is longer than its image of {width} x {height} pixels")
    if runs.sum() != total:
        raise ValueError(
            f"its runs do not fill an image of {width} x {height} pixels "
            f"(they add up to {runs.sum()}, expected {total})"
        )
    return runs


def _size(rle: dict) -> tuple[int, int]:
    size = rle["size"]
    good = isinstance(size, (list, tuple, np.ndarray)) and len(size) == 2
    if not good or not all((is_whole(s) or isinstance(s, np.integer)) and s >= 0 for s in size):
        raise ValueError(f"its size is {describe(size)}, expected [height, width]")
    height, width = map(int, size)
    if height * width > _MOST_PIXELS:
        raise ValueError(f"its size is {describe(size)}, more pixels than 32 bits can count")
    return height, width


def rle_counts(counts: str | bytes | Sequence[int]) -> np.ndarray:
    """The run lengths of a COCO RLE, background first, whatever the size of the image.

    Args:
        counts: the compressed string or the list of run lengths.

    Returns:
        (R,) int64, none negative.

    Raises:
        ValueError: says why they are none.
    """
    if isinstance(counts, (str, bytes)):
        runs = _uncompress(counts.encode("utf-8") if isinstance(counts, str) else counts)
    elif isinstance(counts, (list, tuple, np.ndarray)):
        runs = _whole_numbers(counts)
    else:
        raise ValueError(f"its counts are {describe(counts)}, not a string or a list")
    if len(runs) and runs.min() < 0:
        raise ValueError("it has runs of negative length")
    return runs


def _whole_numbers(counts: Sequence[int]) -> np.ndarray:
    try:
        runs = np.asarray(counts)
    except (ValueError, OverflowError):  # lists of different lengths
        runs = np.zeros((1, 1), dtype=object)
    if len(counts) and (runs.ndim != 1 or runs.dtype.kind not in "iu"):
        raise ValueError("its counts are not whole numbers")
    return runs.astype(np.int64)


def _uncompress(counts: bytes) -> np.ndarray:
    """As pycocotools' rleFrString.

    Six bits a character: five of the number, low ones first, and one for "more follow". The highest
    bit of the last character is the sign; from the fourth number on, it is the difference to the
    number before the last one.
    """
    codes = np.frombuffer(counts, dtype=np.uint8).astype(np.int64) - 48
    if not len(codes):
        return codes
    if codes.min() < 0 or codes.max() > 63:
        raise ValueError("its string has characters that COCO's RLE does not use")
    if codes[-1] & 32:
        raise ValueError("its string breaks off")
    ends = np.flatnonzero(codes < 32)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends + 1 - starts
    if lengths.max() > _CHARACTERS:
        raise ValueError("it has a number beyond 32 bits")
    shifts = 5 * (np.arange(len(codes)) - np.repeat(starts, lengths))
    numbers = np.add.reduceat((codes & 31) << shifts, starts)
    numbers -= np.where(codes[ends] & 16, np.int64(1) << 5 * lengths, 0)
    for first in (1, 2):
        numbers[first::2] = np.cumsum(numbers[first::2])
    return numbers


# ------------------------------------------------------------------------------ what a mask covers


def rle_areas(rles: Sequence[dict]) -> list[int]:
    """Pixels of each of several compressed RLEs."""
    areas: list[int] = []
    for start in range(0, len(rles), _MASKS_PER_CALL):
        areas += mask_util.area(rles[start : start + _MASKS_PER_CALL]).tolist()
    return areas


def rle_box(rle: dict) -> list[float]:
    """The box of a compressed RLE: x, y, width, height in pixels; zeros for an empty mask."""
    return mask_util.toBbox(rle).tolist()


def mask_crop(rle: dict) -> tuple[int, int, np.ndarray]:
    """The smallest part of the image that holds the mask.

    Args:
        rle: a COCO RLE, see :func:`rle_runs`.

    Returns:
        x0, y0 and a (width, height) uint8 array of zeros and ones: columns first, as RLE has them.
        An empty mask gives an array without elements.

    Raises:
        ValueError: see :func:`rle_runs`; or the part is larger than any picture that Pillow reads.
    """
    height = rle["size"][0]
    runs = rle_runs(rle)
    ends = np.cumsum(runs)
    filled = np.flatnonzero(runs[1::2]) * 2 + 1
    if not len(filled):
        return 0, 0, np.zeros((0, 0), dtype=np.uint8)
    x0 = int(ends[filled[0] - 1]) // height
    x1 = int(ends[filled[-1]] - 1) // height + 1
    if (x1 - x0) * height > _MOST_DECODED:
        raise ValueError(f"it covers {x1 - x0} x {height} pixels, too many to decode")
    bounds = np.clip(np.concatenate([[0], ends]), x0 * height, x1 * height)
    values = np.arange(len(runs)) % 2
    columns = np.repeat(values.astype(np.uint8), np.diff(bounds)).reshape(x1 - x0, height)
    rows = np.flatnonzero(columns.any(axis=0))
    y0, y1 = int(rows[0]), int(rows[-1]) + 1
    return x0, y0, columns[:, y0:y1]
