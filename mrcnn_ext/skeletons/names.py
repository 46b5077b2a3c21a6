# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Keypoint names: pairs of left and right, and COCO's person."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["COCO_PERSON_NAMES", "COCO_PERSON_SIGMAS", "Pairs", "mirrored_pairs", "side_of"]

Pairs = tuple[tuple[str, str], ...]

COCO_PERSON_NAMES = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear"),
    *("left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist"),
    *("left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle"),
)
# Of these 17 (cocodataset.org/#keypoints-eval).
COCO_PERSON_SIGMAS = (
    *(0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072),
    *(0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089),
)


def mirrored_pairs(names: Sequence[str]) -> Pairs:
    """Pairs of names of which one is the other with left and right exchanged.

    "left" and "right" count anywhere in a name and in any case ("left_eye", "EyeLeft"); "l" and
    "r" as words of their own alone ("l_eye", "Paw R").
    """
    names = [name for name in names if isinstance(name, str)]  # others are no names
    known = set(names)
    pairs: list[tuple[str, str]] = []
    paired: set[str] = set()
    for name in names:
        other = _mirrored(name)
        if other != name and other in known and name not in paired:
            pairs.append((name, other))
            paired |= {name, other}
    return tuple(pairs)


_SIDES = re.compile(r"left|right|(?<![a-z])[lr](?![a-z])", re.IGNORECASE)
_OTHER = {"left": "right", "right": "left", "l": "r", "r": "l"}


def side_of(name: str) -> int:
    """1 for a keypoint on the left, -1 on the right, 0 for neither; as for :func:`mirrored_pairs`."""
    sides = {match[0][0].lower() for match in _SIDES.finditer(name)}
    return ("l" in sides) - ("r" in sides)


def _mirrored(name: str) -> str:
    def exchange(match: re.Match) -> str:
        side = match[0]
        other = _OTHER[side.lower()]
        if side.isupper():
            return other.upper()
        return other.capitalize() if side[0].isupper() else other

    return _SIDES.sub(exchange, name)
