# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""LVIS's rules for a data set that does not label everything everywhere (Gupta et al., "LVIS",
CVPR 2019, https://arxiv.org/abs/1908.03195)."""

from __future__ import annotations

from collections import Counter, defaultdict

from ..coco.index import GroundTruth

__all__ = ["FREQUENCIES", "frequencies_of", "most_per_pair", "select_federated"]

FREQUENCIES = {"r": "APr", "c": "APc", "f": "APf"}  # rare, common, frequent


def frequencies_of(ground_truth: GroundTruth) -> list[str] | None:
    """ "r", "c" or "f" for each category, or None if the json does not say."""
    letters = [category.get("frequency", "") for category in ground_truth.categories]
    return letters if any(letters) else None


def select_federated(
    entries: list[dict], ground_truth: GroundTruth, max_dets: int, max_per_class: int = 0
) -> list[dict]:
    """The detections that count, in their order.

    An image's best ``max_dets`` are taken first. Then detections of a category that nobody looked
    for in the image go: it is neither in it nor in "neg_category_ids". In a category of
    "not_exhaustive_category_ids", what matches no object is no mistake; to both libraries that
    is a detection whose size is outside of every range.

    Args:
        entries: dicts with "id", "image_id", "category_id", "score", "area".
        ground_truth: whose images have those two lists.
        max_dets: detections per image, all categories together.
        max_per_class: if not 0, the best so many of each class in the whole data set are taken
            instead ("AP fixed", Dave et al., 2021, https://arxiv.org/abs/2102.01066).

    Returns:
        list of dict; those that are changed are copies.
    """
    group, limit = ("category_id", max_per_class) if max_per_class else ("image_id", max_dets)
    negative = _categories(ground_truth, "neg_category_ids")
    not_exhaustive = _categories(ground_truth, "not_exhaustive_category_ids")
    chosen = []
    for entry in _best(entries, group, limit):
        image, category = entry["image_id"], entry["category_id"]
        if (image, category) not in ground_truth.by_pair and category not in negative[image]:
            continue
        if category in not_exhaustive[image]:
            entry = {**entry, "area": -1.0}
        chosen.append(entry)
    return chosen


def _best(entries: list[dict], group: str, limit: int) -> list[dict]:
    groups = defaultdict(list)
    for entry in entries:
        groups[entry[group]].append(entry)
    kept: set[int] = set()
    for members in groups.values():
        members.sort(key=lambda entry: entry["score"], reverse=True)  # stable
        kept.update(entry["id"] for entry in members[:limit])
    return [entry for entry in entries if entry["id"] in kept]


def most_per_pair(entries: list[dict]) -> int:
    """The largest number of detections that an image has of one category; 1 without any."""
    counts = Counter((entry["image_id"], entry["category_id"]) for entry in entries)
    return max(counts.values(), default=1)


def _categories(ground_truth: GroundTruth, key: str) -> dict[int, set[int]]:
    """Image number -> numbers of the categories in one of its lists."""
    numbers = ground_truth.category_number
    return {
        number: {numbers[c] for c in image.get(key, ()) if c in numbers}
        for number, image in enumerate(ground_truth.images, 1)
    }
