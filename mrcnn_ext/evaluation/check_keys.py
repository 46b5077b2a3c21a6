# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The keys of the evaluation, checked before anything is trained."""

from __future__ import annotations

from ..config.check_values import unexpected
from ..errors import ConfigError
from ..messages import shorten
from .matching import choose_backend
from .tasks import TASKS

__all__ = ["check_evaluation"]

# of Detectron2's "GN"
_NEEDS = {"segm": "MASK_ON", "boundary": "MASK_ON", "mask_quality": "MASK_ON"}
_NEEDS |= {"keypoints": "KEYPOINT_ON", "pck": "KEYPOINT_ON"}


def check_evaluation(cfg) -> None:
    """Check the node ``MRCNN_EXT.EVALUATION`` of ``cfg``.

    Raises:
        ConfigError: names the key, its value and what was expected.
    """
    node, keys = "MRCNN_EXT.EVALUATION", cfg.MRCNN_EXT.EVALUATION
    for name in keys.TASKS:
        if name not in TASKS:
            expected = f"some of {shorten(sorted(TASKS), 20)}"
            raise unexpected(f"{node}.TASKS", list(keys.TASKS), expected)
        switch = _NEEDS.get(name)
        if switch is not None and not cfg.MODEL[switch]:
            raise ConfigError(
                f"{node}.TASKS names '{name}', but MODEL.{switch} is False, so there is nothing to "
                "evaluate."
            )
    if not 0 < keys.BOUNDARY_DILATION < 1:
        expected = "a fraction of the image's diagonal, for example 0.02"
        raise unexpected(f"{node}.BOUNDARY_DILATION", keys.BOUNDARY_DILATION, expected)
    if keys.BEST_MODE not in ("max", "min"):
        raise unexpected(f"{node}.BEST_MODE", keys.BEST_MODE, "'max' or 'min'")
    if len(keys.PCK_REFERENCE) not in (0, 2):
        expected = "the names of two keypoints, or none"
        raise unexpected(f"{node}.PCK_REFERENCE", list(keys.PCK_REFERENCE), expected)
    if keys.BEST_METRIC and "/" not in keys.BEST_METRIC:
        raise unexpected(f"{node}.BEST_METRIC", keys.BEST_METRIC, "TASK/METRIC, such as 'segm/AP'")
    try:
        choose_backend(keys.BACKEND)
    except ConfigError as error:
        raise ConfigError(f"{node}.BACKEND: {error}") from error
