# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""How far two runs of one model on one image are apart, detections matched one to one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .onnx_runner import Detections

__all__ = ["Parity", "compare_detections", "join"]

NEAR_TIE = 1e-4  # of scores: rounding decides which of the two comes first, or is kept
_SAME_BOX = 0.9  # IoU


@dataclass(frozen=True)
class Parity:
    """Differences over all matched detections; 0 where there is nothing to compare.

    Attributes:
        matched: detections of both runs.
        near_ties: of one run only, and within ``NEAR_TIE`` of another one's score.
        unmatched: the others of one run only.
        box: largest difference of a coordinate, in units of the box's longer side.
        score: largest difference of scores.
        mask: largest share of a box's pixels in which masks differ.
        pixels, differing: of all masks in their boxes.
        keypoint: largest difference of a coordinate, in units of the box's longer side.
    """

    matched: int = 0
    near_ties: int = 0
    unmatched: int = 0
    box: float = 0.0
    score: float = 0.0
    mask: float = 0.0
    pixels: int = 0
    differing: int = 0
    keypoint: float = 0.0

    @property
    def same_pixels(self) -> float:
        """Share of the pixels in the boxes that are the same."""
        return 1 - self.differing / max(self.pixels, 1)

    def __str__(self) -> str:
        parts = [f"boxes differ by {self.box:.1e} of their side", f"scores by {self.score:.1e}"]
        if self.pixels:
            parts.append(f"{100 * self.same_pixels:.4f} % of mask pixels are the same")
        if self.keypoint:
            parts.append(f"keypoints differ by {self.keypoint:.1e} of the box")
        return (
            f"{self.matched} detections matched, {self.near_ties} near-ties, {self.unmatched} "
            f"unmatched; {', '.join(parts)}"
        )


def join(parts: Iterable[Parity]) -> Parity:
    """Of several images."""
    parts = list(parts)
    return Parity(
        matched=sum(part.matched for part in parts),
        near_ties=sum(part.near_ties for part in parts),
        unmatched=sum(part.unmatched for part in parts),
        box=max((part.box for part in parts), default=0.0),
        score=max((part.score for part in parts), default=0.0),
        mask=max((part.mask for part in parts), default=0.0),
        pixels=sum(part.pixels for part in parts),
        differing=sum(part.differing for part in parts),
        keypoint=max((part.keypoint for part in parts), default=0.0),
    )


def compare_detections(
    expected: Detections,
    found: Detections,
    expected_masks: np.ndarray | None = None,
    found_masks: np.ndarray | None = None,
) -> Parity:
    """Match detections of one class whose boxes overlap by .9 or more, and measure differences.

    Args:
        expected_masks, found_masks: (N, height, width) bool; None: what the detections paste.
    """
    pairs = _matched(expected, found)
    rest = [
        set(range(len(item))) - {pair[side] for pair in pairs}
        for side, item in enumerate((expected, found))
    ]
    alone = [(item, row) for item, rows in zip((expected, found), rest) for row in rows]
    ties = sum(_is_near_tie(item.scores, row) for item, row in alone)
    parts = [Parity(near_ties=ties, unmatched=len(alone) - ties)]
    masks = [
        item.masks() if pasted is None else pasted
        for item, pasted in ((expected, expected_masks), (found, found_masks))
    ]
    for row, other in pairs:
        both = None
        if masks[0] is not None and masks[1] is not None:
            both = (masks[0][row], masks[1][other])
        parts.append(_difference(expected, found, row, other, both))
    return join(parts)


def _matched(expected: Detections, found: Detections) -> list[tuple[int, int]]:
    pairs, free = [], list(range(len(found)))
    for row in np.argsort(-expected.scores, kind="stable"):
        same = [i for i in free if found.classes[i] == expected.classes[row]]
        overlaps = [_iou(expected.boxes[row], found.boxes[i]) for i in same]
        if overlaps and max(overlaps) >= _SAME_BOX:
            best = same[int(np.argmax(overlaps))]
            free.remove(best)
            pairs.append((int(row), best))
    return pairs


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    both = float(np.maximum(sides, 0).prod())
    return both / max(float((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod()) - both, 1e-9)


def _is_near_tie(scores: np.ndarray, row: int) -> bool:
    others = np.delete(scores, row)
    return len(others) == 0 or bool(np.abs(others - scores[row]).min() < NEAR_TIE)


def _difference(
    expected: Detections,
    found: Detections,
    row: int,
    other: int,
    masks: tuple[np.ndarray, np.ndarray] | None,
) -> Parity:
    box = expected.boxes[row]
    side = max(float((box[2:] - box[:2]).max()), 1.0)
    pixels = differing = 0
    if masks is not None:
        x0, y0 = np.floor(box[:2]).astype(int)
        x1, y1 = np.ceil(box[2:]).astype(int)
        pixels = max(int((y1 - y0) * (x1 - x0)), 1)
        differing = int((masks[0] != masks[1]).sum())
    keypoint = 0.0
    if expected.keypoints is not None and found.keypoints is not None:
        points = expected.keypoints[row, :, :2] - found.keypoints[other, :, :2]
        keypoint = float(np.abs(points).max()) / side
    return Parity(
        matched=1,
        box=float(np.abs(box - found.boxes[other]).max()) / side,
        score=abs(float(expected.scores[row] - found.scores[other])),
        mask=differing / max(pixels, 1),
        pixels=pixels,
        differing=differing,
        keypoint=keypoint,
    )
