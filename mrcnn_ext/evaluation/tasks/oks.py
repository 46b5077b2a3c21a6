# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""COCO's AP of keypoints, by object keypoint similarity."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from ...coco.values import is_whole
from ...errors import ConfigError
from ..matching import Matching
from ..overlaps import Overlaps
from .ap import AveragePrecision, summarize
from .task import TaskInput, register_task

__all__ = ["KEYPOINT_AP", "KeypointPrecision"]

_MAX_DETS = (20,)  # COCO's


class KeypointPrecision(AveragePrecision):
    """AP and AR of the categories with keypoints, each by its own sigmas.

    A category without keypoints has nothing to find. Its detections have no part in this.
    """

    metrics = ("AP", "AP50", "AP75", "APm", "APl")
    wants = ("keypoints",)

    def __init__(self) -> None:
        super().__init__("keypoints", (), Overlaps.boxes)

    def evaluate(self, data: TaskInput) -> dict[str, float]:
        return summarize(self.matching(data).curves(data.settings.backend), data.class_names)

    def matching(self, data: TaskInput, max_dets: Sequence[int] | None = None) -> Matching:
        """
        Raises:
            ConfigError: sigmas do not fit the keypoints.
        """
        sigmas = _sigmas_by_category(data)
        objects = [
            {**entry, "num_keypoints": _num_keypoints(entry["annotation"])}
            for entry in data.ground_truth.objects
            if entry["category_id"] in sigmas
        ]
        entries = self.scored(data.detections)
        return Matching(
            data.ground_truth,
            objects,
            [entry for entry in entries if entry["category_id"] in sigmas],
            lambda pair: data.overlaps.keypoints(pair, sigmas[pair[1]]),
            tuple(max_dets or _MAX_DETS),
            keypoints=True,
        )


def _num_keypoints(annotation: dict) -> int:
    visible = int(np.count_nonzero(np.array(annotation.get("keypoints") or [0])[2::3] > 0))
    number = annotation.get("num_keypoints")
    return number if is_whole(number) else visible


def _sigmas_by_category(data: TaskInput) -> dict[int, np.ndarray]:
    """Sigmas by number of the category, of those that have keypoints in the json."""
    truth, settings = data.ground_truth, data.settings
    counts = truth.keypoint_counts()
    predicted: dict[int, set[int]] = defaultdict(set)
    for entry in data.detections.entries:
        predicted[entry["category_id"]].add(len(entry["record"].get("keypoints") or ()) // 3)
    sigmas = {}
    for category, number in zip(truth.categories, truth.category_number.values()):
        values = settings.sigmas_of(category) if number in counts else None
        if values is None:
            continue
        sigmas[number] = values
        found = predicted[number]
        # A dict may leave room for more: the first keypoints are then those of the category.
        exact = found <= {len(values)}
        enough = isinstance(settings.sigmas, Mapping) and min(found, default=0) >= len(values)
        if len(values) != counts[number] or not (exact or enough):
            raise ConfigError(
                f"category '{category.get('name', category['id'])}' has {counts[number]} keypoints in "
                f"{truth.source}, predictions have {', '.join(map(str, sorted(found)))}, and there are "
                f"{len(values)} sigmas; the three have to agree. Set TEST.KEYPOINT_OKS_SIGMAS, the "
                "evaluator's kpt_oks_sigmas, or the data set's metadata keypoint_oks_sigmas."
            )
    return sigmas


KEYPOINT_AP = KeypointPrecision()
register_task(KEYPOINT_AP)
