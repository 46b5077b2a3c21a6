# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Brush masks of Label Studio, read and written: run lengths of RGBA values, packed into bits.

The format is that of thi.ng/rle-pack (Apache-2.0,
https://github.com/thi-ng/umbrella/tree/develop/packages/rle-pack): 32 bits: number of values; 5 bits:
bits a value, less 1; four times 4 bits: bits of run lengths, less 1. Then runs: 1 bit: whether the
value is repeated; 2 bits: which of the four sizes the length has; the length less 1; one value, or as
many as the length says. label-studio-sdk has it, too, but brings a web client, pandas and nltk.
"""

from __future__ import annotations

import numpy as np

__all__ = ["decode_brush", "encode_brush"]

_MOST = 2**31  # values: the alpha of 500 million pixels
_SIZES = (3, 4, 8, 16)  # bits of the run lengths that are written, as Label Studio has them


def decode_brush(data: list[int], width: int, height: int) -> np.ndarray:
    """The mask of a ``brushlabels`` result.

    Args:
        data: its "rle", bytes as whole numbers.
        width, height: of the image in pixels.

    Returns:
        bool (height, width): alpha is not 0.

    Raises:
        ValueError: it is no such encoding of an image of this size.
    """
    try:
        octets = np.array(data, dtype=np.int64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"its rle is no list of bytes ({error})") from error
    if octets.ndim != 1 or not len(octets) or octets.min() < 0 or octets.max() > 255:
        raise ValueError("its rle is no list of bytes")
    bits = np.unpackbits(octets.astype(np.uint8))
    total = _read(bits, 0, 32)
    if total != width * height * 4 or total > _MOST:
        raise ValueError(
            f"its rle has {total} values, expected {width * height * 4} of {width} x {height} pixels"
        )
    word = _read(bits, 32, 5) + 1
    sizes = [_read(bits, 37 + 4 * i, 4) + 1 for i in range(4)]
    if word != 8:
        raise ValueError(f"its rle has values of {word} bits, expected 8")
    values = np.zeros(total, dtype=np.uint8)
    place, done = 53, 0
    while done < total:
        repeated = _read(bits, place, 1)
        size = sizes[_read(bits, place + 1, 2)]
        length = _read(bits, place + 3, size) + 1
        place += 3 + size
        if done + length > total:
            raise ValueError("its rle has a run beyond the end of the image")
        number = 1 if repeated else length
        end = place + number * word
        if end > len(bits):
            raise ValueError("its rle breaks off")
        values[done : done + length] = np.packbits(bits[place:end])
        place, done = end, done + length
    return values.reshape(height, width, 4)[:, :, 3] > 0


def encode_brush(mask: np.ndarray) -> list[int]:
    """The "rle" of a ``brushlabels`` result: what :func:`decode_brush` reads.

    Args:
        mask: (H, W), not 0 is inside: all four values of such a pixel are 255.

    Returns:
        bytes as whole numbers.

    Raises:
        ValueError: the mask has more than 500 million pixels.
    """
    values = (np.asarray(mask) != 0).ravel()
    if 4 * len(values) > _MOST:
        raise ValueError(f"a mask of {len(values)} pixels is too large for a brush")
    ends = np.append(np.flatnonzero(values[1:] != values[:-1]) + 1, len(values))
    starts = np.concatenate([[0], ends[:-1]])
    lengths, inside = 4 * (ends - starts), values[np.minimum(starts, max(len(values) - 1, 0))]
    if not len(values):
        lengths, inside = lengths[:0], inside[:0]
    most = 1 << _SIZES[-1]
    pieces = -(-lengths // most)  # long runs are written as several
    inside = np.repeat(inside, pieces)
    last = np.cumsum(pieces) - 1
    whole = np.full(int(pieces.sum()), most, dtype=np.int64)
    whole[last] = lengths - (pieces - 1) * most
    index = np.searchsorted(1 << np.array(_SIZES), whole)  # the smallest that holds it
    size = np.array(_SIZES)[index]
    # One bit "repeated", two bits which size, the length less 1, eight bits of the value.
    codes = (((1 << 2 | index) << size | (whole - 1)) << 8) | np.where(inside, 255, 0)
    number = size + 11
    shifts = np.arange(int(number.max(initial=0)))[::-1]
    bits = (codes[:, None] >> shifts) & 1
    bits = bits[shifts < number[:, None]].astype(np.uint8)
    head = [(4 * len(values), 32), (7, 5), *((size - 1, 4) for size in _SIZES)]
    first = [value >> shift & 1 for value, count in head for shift in range(count)[::-1]]
    return np.packbits(np.concatenate([np.array(first, dtype=np.uint8), bits])).tolist()


def _read(bits: np.ndarray, place: int, size: int) -> int:
    if place + size > len(bits):
        raise ValueError("its rle breaks off")
    return int.from_bytes(np.packbits(bits[place : place + size]).tobytes(), "big") >> (-size % 8)
