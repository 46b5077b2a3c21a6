# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""How keypoint heads are measured: OKS, distances, and what tells them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Instances
from torch import nn

from ...data.skeletons import skeletons_of_dataset
from ...errors import ConfigError
from ...evaluation import MrcnnExtCOCOEvaluator
from ..evaluation import HeadEvaluation
from .objects import KEYPOINT_QUALITIES, PosedObject, match_poses, measures

__all__ = ["KeypointEvaluation"]


class KeypointEvaluation(HeadEvaluation):
    """See :class:`HeadEvaluation`.

    Raises:
        ConfigError: sigmas do not fit the data set's keypoints.
    """

    tasks = ("bbox", "keypoints")
    columns = ("oks", "pixels", "error", "pck05", "pck10")
    qualities = KEYPOINT_QUALITIES
    truth = "oks"

    def __init__(self, cfg, folder: Path) -> None:
        name = cfg.DATASETS.TEST[0]
        skeletons = skeletons_of_dataset(name)
        number = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS
        given = list(cfg.TEST.KEYPOINT_OKS_SIGMAS)
        self.dataset = name
        self.sigmas = np.array(given or (skeletons.sigmas if skeletons else ()))
        if len(self.sigmas) != number:
            raise ConfigError(
                f"there are {len(self.sigmas)} sigmas for {number} keypoints "
                f"(TEST.KEYPOINT_OKS_SIGMAS, or the skeletons of '{name}')."
            )
        self.class_keypoints = None
        if skeletons is not None and skeletons.class_skeletons:
            self.class_keypoints = skeletons.class_keypoints().numpy()
        self.evaluator = MrcnnExtCOCOEvaluator(
            name, self.tasks, False, str(folder / "inference"), kpt_oks_sigmas=given
        )

    @torch.no_grad()
    def predict(self, model: nn.Module, inputs: dict, given: Instances | None = None) -> Instances:
        (raw,) = model.inference(  # type: ignore[operator]
            [inputs], None if given is None else [given], do_postprocess=False
        )
        if raw.has("pred_masks"):
            raw.remove("pred_masks")  # nobody looks at them, and pasting takes time
        return detector_postprocess(raw, inputs["height"], inputs["width"]).to("cpu")

    def match(self, output: Instances, objects: Sequence[PosedObject]) -> list[dict[str, float]]:
        return match_poses(output, objects, self.sigmas, self.class_keypoints)

    def measure(
        self, one: PosedObject, output: Instances, row: int | None
    ) -> tuple[dict[str, float], list]:
        if row is None:  # the middle of the box
            middle = [(one.box[0] + one.box[2]) / 2, (one.box[1] + one.box[3]) / 2, 0.0]
            found = np.tile(middle, (len(one.keypoints), 1))
        else:
            found = output.pred_keypoints[row].numpy()
        answer = np.asarray(found, dtype=float).round(3).tolist()
        return measures(one, found[:, :2], self.sigmas), answer

    def details(self) -> dict:
        classes = MetadataCatalog.get(self.dataset).get("thing_classes")
        return {"sigmas": self.sigmas.tolist(), "classes": list(classes or [])}
