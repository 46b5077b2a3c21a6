# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Keypoints of each class out of the flat layout, and what they are measured by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..errors import DataError
from ..skeletons import SkeletonSet
from ..skeletons.names import COCO_PERSON_SIGMAS

__all__ = ["cut_annotations", "cut_to_class", "oks_sigmas"]

Sigmas = Sequence[float] | Mapping


def oks_sigmas(given: Sigmas, metadata, categories: Sequence[dict]) -> Sigmas:
    """Sigmas of a data set's keypoints.

    Args:
        given: explicitly; one for each keypoint of the flat layout, or a list for each category by
            name or id. May be empty.
        metadata: of the data set.
        categories: of its json.

    Returns:
        ``given``; else the metadata's "keypoint_oks_sigmas"; else those of the skeletons that the
        metadata or the json's categories describe, by category id; else those of COCO's persons.

    Raises:
        DataError: the json's skeletons do not fit together.
    """
    chosen = given or metadata.get("keypoint_oks_sigmas") or ()
    if isinstance(chosen, Mapping):
        return chosen
    skeletons = SkeletonSet.from_metadata(metadata)
    mapping = metadata.get("thing_dataset_id_to_contiguous_id")
    if skeletons is None:
        # As SkeletonSet says, contiguous ids are in the order of the json's.
        categories = sorted(categories, key=lambda category: category["id"])
        skeletons = SkeletonSet.from_coco_categories(categories)
        mapping = {category["id"]: index for index, category in enumerate(categories)}
    if skeletons is None or not skeletons.class_skeletons:
        return chosen or (skeletons.sigmas if skeletons is not None else COCO_PERSON_SIGMAS)
    if len(chosen) and len(chosen) != skeletons.num_keypoints:
        return chosen  # which the evaluation finds not to fit, and says so
    flat = tuple(chosen) or skeletons.sigmas
    ids = mapping or {i: i for i in range(skeletons.num_classes)}
    slots = {i: skeletons.slots(c) for i, c in ids.items() if c < skeletons.num_classes}
    return {i: flat[own.start : own.stop] for i, own in slots.items() if len(own)}


def cut_to_class(keypoints: list, class_id: int, skeletons: SkeletonSet | None) -> list | None:
    """Keypoints of an object's class.

    Args:
        keypoints: K entries of the flat layout, or already those of the class.
        class_id: contiguous.
        skeletons: None: all classes have all of them.

    Returns:
        the entries of the class; None if it has no keypoints.

    Raises:
        DataError: there are neither K nor as many as the class has.
    """
    if skeletons is None or not skeletons.class_skeletons:
        return keypoints
    own = skeletons.slots(class_id)
    if not len(own):
        return None
    if len(keypoints) not in (skeletons.num_keypoints, len(own)):
        raise DataError(
            f"an object of class {skeletons.describe_class(class_id)} has {len(keypoints)} keypoints; "
            f"expected {len(own)}, or all {skeletons.num_keypoints} of the data set's skeletons."
        )
    if len(keypoints) == len(own):
        return keypoints
    return keypoints[own.start : own.stop]


def cut_annotations(annotations: Sequence[dict], class_of: Mapping, skeletons: SkeletonSet) -> None:
    """Leave each annotation of a COCO json the keypoints of its class, in place.

    Args:
        annotations: with "category_id" and perhaps flat "keypoints" (3 K numbers).
        class_of: json's category id -> contiguous class.
        skeletons: of the classes.

    Raises:
        DataError: see :func:`cut_to_class`; names image and annotation.
    """
    for annotation in annotations:
        numbers = annotation.get("keypoints")
        if not numbers:
            continue
        points = [numbers[i : i + 3] for i in range(0, len(numbers), 3)]
        try:
            own = cut_to_class(points, class_of[annotation["category_id"]], skeletons)
        except DataError as error:
            raise DataError(
                f"image id {annotation['image_id']!r}, annotation {annotation.get('id')}: {error}"
            ) from error
        annotation["keypoints"] = [number for point in own or () for number in point]
