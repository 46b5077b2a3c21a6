# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Names of keypoints: the checks of a skeleton, left and right, and COCO's person."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from ..errors import DataError

__all__ = [
    "COCO_PERSON_NAMES",
    "COCO_PERSON_SIGMAS",
    "Pairs",
    "check_skeleton",
    "mirrored_pairs",
]

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


def _mirrored(name: str) -> str:
    def exchange(match: re.Match) -> str:
        side = match[0]
        other = _OTHER[side.lower()]
        if side.isupper():
            return other.upper()
        return other.capitalize() if side[0].isupper() else other

    return _SIDES.sub(exchange, name)


def check_skeleton(name, keypoint_names, flip_map, edges, sigmas) -> dict[str, tuple]:
    """The fields of a skeleton as tuples.

    Raises:
        DataError: something does not fit; names skeleton, keypoint and what was expected.
    """
    if not isinstance(name, str) or not name:
        raise DataError(f"a skeleton has the name {name!r}; expected a text that is not empty.")
    where = f"skeleton '{name}'"
    names = _check_names(where, keypoint_names)
    pairs = _check_pairs(where, "flip_map", flip_map, names)
    _check_once(where, pairs)
    return {
        "keypoint_names": names,
        "flip_map": pairs,
        "edges": _check_pairs(where, "edges", edges, names),
        "sigmas": _check_sigmas(where, sigmas, names),
    }


def _check_names(where: str, names) -> tuple[str, ...]:
    if isinstance(names, str) or not isinstance(names, Sequence) or not names:
        raise DataError(f"{where}: its keypoints are {names!r}; expected a list of names.")
    seen: set[str] = set()
    for number, name in enumerate(names, 1):
        if not isinstance(name, str) or not name:
            raise DataError(
                f"{where}: the name of keypoint {number} is {name!r}; expected a text that is not "
                "empty."
            )
        if name in seen:
            raise DataError(f"{where}: two keypoints have the name '{name}'; expected one.")
        seen.add(name)
    return tuple(names)


def _check_pairs(where: str, field: str, pairs, names: tuple[str, ...]) -> Pairs:
    if isinstance(pairs, str) or not isinstance(pairs, Sequence):
        raise DataError(f"{where}: its {field} is {pairs!r}; expected a list of pairs of names.")
    for pair in pairs:
        if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
            raise DataError(f"{where}: {field} has {pair!r}; expected a pair of keypoint names.")
        for name in pair:
            if name not in names:
                raise DataError(
                    f"{where}: {field} has the pair {tuple(pair)}, but no keypoint has the name "
                    f"{name!r}; expected one of {', '.join(names)}."
                )
        if pair[0] == pair[1]:
            raise DataError(
                f"{where}: {field} pairs the keypoint '{pair[0]}' with itself; expected two "
                "different ones."
            )
    return tuple((a, b) for a, b in pairs)


def _check_once(where: str, flip_map: Pairs) -> None:
    partner: dict[str, str] = {}
    for a, b in flip_map:
        for name, other in ((a, b), (b, a)):
            if name in partner:
                raise DataError(
                    f"{where}: flip_map pairs the keypoint '{name}' with '{partner[name]}' and "
                    f"again with '{other}'; expected every keypoint in one pair at most."
                )
            partner[name] = other


def _check_sigmas(where: str, sigmas, names: tuple[str, ...]) -> tuple[float, ...]:
    if isinstance(sigmas, str) or not isinstance(sigmas, Sequence):
        raise DataError(f"{where}: its sigmas are {sigmas!r}; expected a list of numbers.")
    if len(sigmas) not in (0, len(names)):
        raise DataError(
            f"{where}: there are {len(sigmas)} sigmas for {len(names)} keypoints; expected one "
            "each, or none at all."
        )
    for name, sigma in zip(names, sigmas):
        number = isinstance(sigma, (int, float)) and not isinstance(sigma, bool)
        if not number or not math.isfinite(sigma) or sigma <= 0:
            raise DataError(
                f"{where}: the sigma of keypoint '{name}' is {sigma!r}; expected a number above 0."
            )
    return tuple(map(float, sigmas))
