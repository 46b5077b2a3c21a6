# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""What to evaluate and how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..errors import ConfigError
from ..skeletons.names import COCO_PERSON_SIGMAS
from .matching import choose_backend

__all__ = ["COCO_SIGMAS", "TASKS", "EvaluationSettings"]

TASKS = ("bbox", "segm", "boundary", "mask_quality", "keypoints", "pck")
MASK_TASKS = ("segm", "boundary", "mask_quality")
COCO_SIGMAS = COCO_PERSON_SIGMAS


@dataclass(frozen=True)
class EvaluationSettings:
    """Rules of an evaluation.

    Args:
        tasks: of ``TASKS``; None takes those that the predictions have what is needed for.
        max_dets: detections per image, and of one category in it; None is 100, or as many as the
            fullest image has if that is more (300 in LVIS's style).
        boundary_dilation: width of boundaries, as a fraction of the image's diagonal.
        lvis_style: follow LVIS's rules, see ``lvis.py``.
        lvis_max_per_class: AP fixed: so many detections per class instead of ``max_dets`` per image.
        sigmas: of the keypoints; a dict has a list for each category's name or id.
        pck_reference: two keypoints whose distance is PCK's unit, see ``pck.py``.
        backend: "auto", "faster_coco_eval" or "pycocotools".

    Raises:
        ConfigError: names the argument and what was expected.
    """

    tasks: Sequence[str] | None = None
    max_dets: int | None = None
    boundary_dilation: float = 0.02
    lvis_style: bool = False
    lvis_max_per_class: int = 0
    sigmas: Sequence[float] | Mapping = field(default=COCO_SIGMAS)
    pck_reference: Sequence[str] = ()
    backend: str = "auto"

    def __post_init__(self) -> None:
        for task in self.tasks or ():
            if task not in TASKS:
                raise ConfigError(f"task {task!r} is unknown; there are: {', '.join(TASKS)}.")
        if self.max_dets is not None and self.max_dets < 1:
            raise ConfigError(f"max_dets is {self.max_dets}; expected 1 or more.")
        if not 0 < self.boundary_dilation < 1:
            raise ConfigError(
                f"boundary_dilation is {self.boundary_dilation}; expected a fraction of the image's "
                "diagonal, for example 0.02."
            )
        reference = self.pck_reference
        if isinstance(reference, str) or len(reference) not in (0, 2):
            raise ConfigError(
                f"pck_reference is {reference!r}; expected the names of two keypoints, or none."
            )
        choose_backend(self.backend)

    def sigmas_of(self, category: dict) -> np.ndarray | None:
        """(K,) sigmas of a category of the json, or None if a dict leaves it out.

        Raises:
            ConfigError: they are not positive numbers.
        """
        sigmas = self.sigmas
        if isinstance(sigmas, Mapping):
            sigmas = sigmas.get(category.get("name"), sigmas.get(category["id"]))
            if sigmas is None:
                return None
        values = np.asarray(sigmas, dtype=np.float64)
        if values.ndim != 1 or not (values > 0).all():
            raise ConfigError(
                f"keypoint sigmas are {sigmas}; expected one number above 0 for each."
            )
        return values
