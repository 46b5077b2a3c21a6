# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Keypoints of several classes in one model: the skeletons, and where each lies in the flat layout.

The keypoints of all skeletons are concatenated to one list of K *slots*; classes with the same
skeleton share its slots. Ground truth and predictions of every object have all K slots, of which
those of its class count. So whatever expects one set of K keypoints (Detectron2's data mapper,
flips, losses and keypoint head) also works for several skeletons.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from ..errors import DataError
from .from_json import category_skeleton, read_skeletons, skeletons_content, write_skeletons
from .names import COCO_PERSON_NAMES, COCO_PERSON_SIGMAS, Pairs, side_of
from .skeleton import Skeleton, flip_indices_of

__all__ = ["SkeletonSet"]

# Side (see side_of) -> limb colour (RGB) in Detectron2's drawings.
_EDGE_COLORS = {1: (255, 153, 51), -1: (0, 204, 102), 0: (51, 153, 255)}


@dataclass(frozen=True)
class SkeletonSet:
    """The skeletons of a data set's classes in the flat layout.

    Args:
        skeletons: each once; their slots follow one another.
        class_skeletons: for each contiguous class id the index of its skeleton, None for a class
            without keypoints.
        class_names: of the classes, for messages and files; may be empty.

    Raises:
        DataError: something does not fit; the message names it.
    """

    skeletons: tuple[Skeleton, ...]
    class_skeletons: tuple[int | None, ...]
    class_names: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        for name in ("skeletons", "class_skeletons", "class_names"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.skeletons:
            raise DataError("a SkeletonSet needs at least one skeleton.")
        _check_unique("skeleton", [s.name for s in self.skeletons])
        _check_unique("flat keypoint name", self.keypoint_names)
        for class_id, index in enumerate(self.class_skeletons):
            if index is not None and index not in range(len(self.skeletons)):
                raise DataError(
                    f"class {self.describe_class(class_id)} has the skeleton number {index!r}; "
                    f"expected 0 to {len(self.skeletons) - 1}, or None for a class without keypoints."
                )
        if self.class_names and len(self.class_names) != len(self.class_skeletons):
            raise DataError(
                f"there are {len(self.class_names)} class names for {len(self.class_skeletons)} "
                "classes; expected one each, or none at all."
            )

    @classmethod
    def single(cls, skeleton: Skeleton, class_names: Sequence[str]) -> SkeletonSet:
        """One skeleton that all classes share."""
        return cls((skeleton,), (0,) * len(class_names), tuple(class_names))

    @property
    def num_classes(self) -> int:
        return len(self.class_skeletons)

    @property
    def num_keypoints(self) -> int:
        """K, the number of slots."""
        return sum(map(len, self.skeletons))

    @cached_property
    def keypoint_names(self) -> tuple[str, ...]:
        """Of the K slots; "skeleton/keypoint" where there are several skeletons."""
        return tuple(self._flat(s, name) for s in self.skeletons for name in s.keypoint_names)

    @cached_property
    def flip_map(self) -> Pairs:
        """Pairs of flat names that swap in a mirrored image."""
        return self._flat_pairs("flip_map")

    @cached_property
    def edges(self) -> Pairs:
        """Pairs of flat names to connect."""
        return self._flat_pairs("edges")

    @cached_property
    def sigmas(self) -> tuple[float, ...]:
        """For OKS, one a slot."""
        return tuple(sigma for s in self.skeletons for sigma in s.oks_sigmas)

    @cached_property
    def flip_indices(self) -> tuple[int, ...]:
        """For each slot, its partner in a mirrored image."""
        return flip_indices_of(self.keypoint_names, self.flip_map)

    def skeleton(self, class_id: int) -> Skeleton | None:
        """The skeleton of a class; None if it has no keypoints.

        Raises:
            DataError: there is no such class.
        """
        if class_id not in range(self.num_classes):
            raise DataError(
                f"there is no class {class_id!r}: the skeletons are of {self.num_classes} classes, "
                f"0 to {self.num_classes - 1}."
            )
        index = self.class_skeletons[class_id]
        return None if index is None else self.skeletons[index]

    def slots(self, class_id: int) -> range:
        """The slots of a class; empty if it has no keypoints.

        Raises:
            DataError: there is no such class.
        """
        if self.skeleton(class_id) is None:
            return range(0)
        index = self.class_skeletons[class_id]
        assert index is not None
        start = sum(map(len, self.skeletons[:index]))
        return range(start, start + len(self.skeletons[index]))

    def class_keypoints(self) -> Tensor:
        """bool (num_classes, K): which slots are those of a class."""
        out = torch.zeros(self.num_classes, self.num_keypoints, dtype=torch.bool)
        for class_id in range(self.num_classes):
            slots = self.slots(class_id)
            out[class_id, slots.start : slots.stop] = True
        return out

    def class_sigmas(self, class_id: int) -> tuple[float, ...]:
        """For OKS, one for each keypoint of the class."""
        skeleton = self.skeleton(class_id)
        return () if skeleton is None else skeleton.oks_sigmas

    @classmethod
    def from_coco_categories(cls, categories: Sequence[dict]) -> SkeletonSet | None:
        """The skeletons that a COCO json describes.

        A category's "keypoints" are the names, "skeleton" the edges (pairs of numbers from 1).
        "flip_map" (or "keypoint_flip_map"; pairs of names) and "sigmas" are this package's. Without
        "flip_map", two keypoints are a pair if the one's name is the other's with left and right
        exchanged, in any case of letters; l and r do for words of their own ("l_eye", "paw R").
        Without "sigmas", COCO's person gets COCO's own.

        Args:
            categories: of the json, in the order of the contiguous class ids (that is, by id).

        Returns:
            the skeletons, None if no category has keypoints.

        Raises:
            DataError: something does not fit; names category, keypoint and what was expected.
        """
        skeletons: list[Skeleton] = []
        known: dict[tuple, int] = {}
        of_class: list[int | None] = []
        for category in categories:
            fields = category_skeleton(category)
            if fields is None:
                of_class.append(None)
                continue
            skeleton = Skeleton(**fields)
            key = (skeleton.keypoint_names, skeleton.flip_map, skeleton.edges, skeleton.sigmas)
            if key not in known:
                known[key] = len(skeletons)
                skeletons.append(skeleton)
            of_class.append(known[key])
        if not skeletons:
            return None
        return cls(tuple(skeletons), tuple(of_class), tuple(str(c["name"]) for c in categories))

    @classmethod
    def load(cls, path: str | os.PathLike) -> SkeletonSet:
        """Read what :meth:`save` wrote, or the categories of a COCO json.

        Raises:
            DataError: the file cannot be read, or something in it does not fit; names the file.
        """
        content = read_skeletons(path)
        try:
            if "categories" in content:
                categories = sorted(content["categories"], key=lambda c: c["id"])
                found = cls.from_coco_categories(categories)
                if found is None:
                    raise DataError("no category has 'keypoints'.")
                return found
            skeletons = tuple(Skeleton(**entry) for entry in content["skeletons"])
            return cls(skeletons, content["class_skeletons"], content["class_names"])
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
        except (KeyError, TypeError) as error:
            raise DataError(
                f"{path}: is no file of skeletons ({type(error).__name__}: {error})."
            ) from error

    def save(self, path: str | os.PathLike) -> None:
        """Write the skeletons as json; see docs/pose/skeletons.md for its form."""
        write_skeletons(path, skeletons_content(self.skeletons, self.class_skeletons, self._names))

    def set_metadata(self, metadata) -> None:
        """Write the skeletons to a data set's metadata, for this package and for Detectron2.

        Args:
            metadata: an entry of ``MetadataCatalog``. Gets "mrcnn_ext_skeletons", and Detectron2's
                "keypoint_names", "keypoint_flip_map" and "keypoint_connection_rules", all flat.
        """
        rules = [(a, b, _edge_color(a, b)) for a, b in self.edges]
        metadata.set(
            mrcnn_ext_skeletons=self,
            keypoint_names=list(self.keypoint_names),
            keypoint_flip_map=list(self.flip_map),
            keypoint_connection_rules=rules,
        )

    @staticmethod
    def from_metadata(metadata) -> SkeletonSet | None:
        """What :meth:`set_metadata` put there; else what Detectron2's "keypoint_names" … say.

        The latter are one skeleton, which all classes have. None if there are no keypoints.

        Raises:
            DataError: Detectron2's fields do not fit each other; names the data set.
        """
        found = metadata.get("mrcnn_ext_skeletons")
        names = metadata.get("keypoint_names")
        if found is not None or not names:
            return found
        classes = metadata.get("thing_classes") or []
        skeleton_name = classes[0] if len(classes) == 1 else "object"
        try:
            skeleton = Skeleton(
                skeleton_name,
                tuple(names),
                tuple(map(tuple, metadata.get("keypoint_flip_map") or ())),
                tuple((r[0], r[1]) for r in metadata.get("keypoint_connection_rules") or ()),
                COCO_PERSON_SIGMAS if tuple(names) == COCO_PERSON_NAMES else (),
            )
        except DataError as error:
            raise DataError(f"metadata of '{metadata.get('name')}': {error}") from error
        return SkeletonSet.single(skeleton, classes)

    @property
    def _names(self) -> tuple[str, ...]:
        return self.class_names or tuple(map(str, range(self.num_classes)))

    def describe_class(self, class_id: int) -> str:
        """For messages."""
        named = class_id < len(self.class_names)
        return f"{class_id} ('{self.class_names[class_id]}')" if named else str(class_id)

    def _flat(self, skeleton: Skeleton, name: str) -> str:
        return name if len(self.skeletons) == 1 else f"{skeleton.name}/{name}"

    def _flat_pairs(self, attribute: str) -> Pairs:
        return tuple(
            (self._flat(s, a), self._flat(s, b))
            for s in self.skeletons
            for a, b in getattr(s, attribute)
        )


def _edge_color(a: str, b: str) -> tuple[int, int, int]:
    """By the side of the farther keypoint, as edges are mostly written from the body outwards."""
    far, near = (side_of(name.rsplit("/", 1)[-1]) for name in (b, a))
    return _EDGE_COLORS[far or near]


def _check_unique(what: str, names: Sequence[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise DataError(f"there are two times the {what} '{name}'; expected different names.")
        seen.add(name)
