# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The keypoints of one class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from ..errors import DataError
from .names import Pairs

__all__ = ["DEFAULT_SIGMA", "Skeleton", "flip_indices_of"]

# For a keypoint without a measured sigma. COCO's are 0.025 (eyes) to 0.107 (hips); with 0.05, an OKS
# of 0.5 is a distance of 0.12 times the square root of the object's area.
DEFAULT_SIGMA = 0.05


@dataclass(frozen=True)
class Skeleton:
    """The keypoints of a class.

    Args:
        name: by which messages, files and flat names speak of it.
        keypoint_names: in the order of the annotations' numbers.
        flip_map: pairs that change places in a mirrored picture.
        edges: pairs to connect in drawings.
        sigmas: of each keypoint, for OKS: the standard deviation of repeated annotations over the
            square root of the object's area. Empty: DEFAULT_SIGMA for every one.

    Raises:
        DataError: something does not fit; names skeleton, keypoint and what was expected.
    """

    name: str
    keypoint_names: tuple[str, ...]
    flip_map: Pairs = ()
    edges: Pairs = ()
    sigmas: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        # Lists, as json has them, are welcome.
        values = _check_skeleton(
            self.name, self.keypoint_names, self.flip_map, self.edges, self.sigmas
        )
        for field_name, value in values.items():
            object.__setattr__(self, field_name, value)

    def __len__(self) -> int:
        return len(self.keypoint_names)

    @property
    def oks_sigmas(self) -> tuple[float, ...]:
        """One for each keypoint, the default where none are known."""
        return self.sigmas or (DEFAULT_SIGMA,) * len(self)

    @cached_property
    def flip_indices(self) -> tuple[int, ...]:
        """For each keypoint the one it becomes in a mirrored picture."""
        return flip_indices_of(self.keypoint_names, self.flip_map)

    @cached_property
    def edge_indices(self) -> tuple[tuple[int, int], ...]:
        """The edges as numbers of keypoints, from 0."""
        index = {name: i for i, name in enumerate(self.keypoint_names)}
        return tuple((index[a], index[b]) for a, b in self.edges)


def flip_indices_of(names: tuple[str, ...], flip_map: Pairs) -> tuple[int, ...]:
    """For each name the index of the one that it becomes in a mirrored picture."""
    partner = {**dict(flip_map), **{b: a for a, b in flip_map}}
    index = {name: i for i, name in enumerate(names)}
    return tuple(index[partner.get(name, name)] for name in names)


def _check_skeleton(name, keypoint_names, flip_map, edges, sigmas) -> dict[str, tuple]:
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
