# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Resizing by the shortest edge, as Detectron2's INPUT keys have it."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.data import transforms as T

from .arguments import choice, side, whole

__all__ = ["resize_shortest_edge"]


def resize_shortest_edge(
    *, short_edge_length: int | Sequence[int], max_size: int = 1333, sample_style: str = "choice"
) -> T.Augmentation:
    """Detectron2's ``ResizeShortestEdge``.

    Args:
        short_edge_length: one length in pixels; several to choose from; or, for "range", the least
            and the greatest.
        max_size: of the longest edge.
        sample_style: "choice" or "range".

    Raises:
        ValueError: an argument has a value that cannot work.
    """
    choice("sample_style", sample_style, ("choice", "range"))
    is_list = isinstance(short_edge_length, Sequence) and not isinstance(short_edge_length, str)
    given = list(short_edge_length) if is_list else [short_edge_length]  # type: ignore[arg-type]
    lengths = [side("short_edge_length", length) for length in given]
    if sample_style == "range" and is_list and (len(lengths) != 2 or lengths[0] > lengths[1]):
        raise ValueError(
            f"short_edge_length is {lengths}; expected [least, greatest] for sample_style 'range'"
        )
    if not lengths:
        raise ValueError("short_edge_length is []; expected one length or more")
    if sample_style == "range" and len(lengths) == 1:
        lengths *= 2
    return T.ResizeShortestEdge(lengths, whole("max_size", max_size, 1), sample_style)
