# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""What to evaluate and how: one object, from a config, a command line or keyword arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from detectron2.data import MetadataCatalog

from .._moved import moved_names
from ..coco.values import is_finite
from ..errors import ConfigError
from ..skeletons.names import COCO_PERSON_SIGMAS
from .class_keypoints import oks_sigmas
from .matching import choose_backend

__all__ = ["EvaluationSettings"]

__getattr__ = moved_names(
    __name__,
    {
        "COCO_SIGMAS": "mrcnn_ext.skeletons.names:COCO_PERSON_SIGMAS",
        "TASKS": "mrcnn_ext.evaluation.tasks",
    },
)


@dataclass(frozen=True)
class EvaluationSettings:
    """Rules of an evaluation.

    Args:
        tasks: names of ``evaluation.tasks.TASKS``; None or empty: every task whose fields the
            predictions contain.
        max_dets: detections per image, and of one category in it; None is 100, or as many as the
            fullest image has if that is more, so that none is dropped (300 in LVIS's style).
        boundary_dilation: width of boundaries, as a fraction of the image's diagonal.
        lvis_style: follow LVIS's rules for "neg_category_ids" and "not_exhaustive_category_ids" of the
            json's images, and its limit of 300 detections an image; see ``lvis.py``.
        lvis_max_per_class: AP fixed: so many detections per class in the data set (10000 in the paper)
            instead of ``max_dets`` per image.
        sigmas: of the keypoints; a dict has a list for each category's name or id. Empty: those of
            COCO's 17, see :meth:`for_dataset`.
        pck_reference: two keypoints whose distance is PCK's unit; empty: the square root of the box's
            area.
        backend: "auto", "faster_coco_eval" or "pycocotools". Both give the same numbers.
        boxes_only: objects may have a box and no mask. Tasks of masks take them as crowds: a mask in
            the box is neither right nor wrong. False: such an object is an error for these tasks.
        score_thresholds: least scores of the detections that count in the task "false_positives".

    Raises:
        ConfigError: names the argument and what was expected.
    """

    tasks: Sequence[str] | None = None
    max_dets: int | None = None
    boundary_dilation: float = 0.02
    lvis_style: bool = False
    lvis_max_per_class: int = 0
    sigmas: Sequence[float] | Mapping = ()
    pck_reference: Sequence[str] = ()
    backend: str = "auto"
    boxes_only: bool = False
    score_thresholds: Sequence[float] = (0.3, 0.5, 0.7)

    def __post_init__(self) -> None:
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
        for score in self.score_thresholds:
            if not is_finite(score) or not 0 <= score <= 1:
                raise ConfigError(f"score_thresholds has {score!r}; expected numbers from 0 to 1.")
        choose_backend(self.backend)

    @classmethod
    def from_config(cls, cfg, dataset_name: str) -> EvaluationSettings:
        """Read ``MRCNN_EXT.EVALUATION`` and ``TEST`` for a registered data set.

        ``max_dets`` is ``TEST.DETECTIONS_PER_IMAGE`` if that is more than COCO's 100 or LVIS's 300.

        Raises:
            ConfigError: a key holds what is invalid.
        """
        keys = cfg.MRCNN_EXT.EVALUATION
        lvis = keys.LVIS_STYLE or MetadataCatalog.get(dataset_name).get("evaluator_type") == "lvis"
        most = max(300 if lvis else 100, cfg.TEST.DETECTIONS_PER_IMAGE)
        return cls(
            tasks=tuple(keys.TASKS),
            max_dets=keys.MAX_DETECTIONS or most,
            boundary_dilation=keys.BOUNDARY_DILATION,
            lvis_style=lvis,
            lvis_max_per_class=keys.LVIS_MAX_PER_CLASS,
            sigmas=tuple(cfg.TEST.KEYPOINT_OKS_SIGMAS),
            pck_reference=tuple(keys.PCK_REFERENCE),
            boxes_only=cfg.MRCNN_EXT.DATA.BOXES_ONLY,
            score_thresholds=tuple(keys.SCORE_THRESHOLDS),
            backend=keys.BACKEND,
        )

    def for_dataset(self, metadata, categories: Sequence[dict]) -> EvaluationSettings:
        """The same with the data set's sigmas, unless there are some already.

        Args:
            metadata: of the data set; may be empty.
            categories: of its json.

        Raises:
            DataError: the json's skeletons do not fit together.
        """
        return replace(self, sigmas=oks_sigmas(self.sigmas, metadata, categories))

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
        values = np.asarray(sigmas if len(sigmas) else COCO_PERSON_SIGMAS, dtype=np.float64)
        if values.ndim != 1 or not (values > 0).all():
            raise ConfigError(
                f"keypoint sigmas are {sigmas}; expected one number above 0 for each."
            )
        return values
