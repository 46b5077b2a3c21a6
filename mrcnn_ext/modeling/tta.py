# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Test-time augmentation for models with keypoints."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.data import MetadataCatalog
from detectron2.data.transforms import HFlipTransform, TransformList
from detectron2.modeling import GeneralizedRCNNWithTTA
from detectron2.structures import Instances
from torch import Tensor, nn

from ..data.skeletons import skeletons_from_config
from ..errors import ConfigError
from ..skeletons import SkeletonSet

__all__ = ["KeypointRCNNWithTTA"]


class KeypointRCNNWithTTA(GeneralizedRCNNWithTTA):
    """Detectron2's GeneralizedRCNNWithTTA (same keys of TEST.AUG, same call), with keypoints as well.

    Boxes and masks are Detectron2's: detections of all augmented images are merged, and masks of the
    merged boxes are averaged. Then keypoints of the merged boxes are predicted on every augmented
    image, mapped back (left and right are swapped in mirrored images, skeleton by skeleton) and
    averaged, weighted by their scores. A model without keypoints gives Detectron2's results.
    """

    def __init__(
        self,
        cfg,
        model: nn.Module,
        tta_mapper=None,
        batch_size: int = 3,
        *,
        flip_indices: Sequence[int] | None = None,
    ) -> None:
        """
        Args:
            cfg, model, tta_mapper, batch_size: as for GeneralizedRCNNWithTTA.
            flip_indices: for each of the K keypoints, the index of its mirror image; None takes
                them from the skeletons of the config's data sets.

        Raises:
            ConfigError: the flip indices are unknown or not those of K keypoints.
        """
        without = cfg.clone()
        without.defrost()
        without.MODEL.KEYPOINT_ON = False  # Detectron2's class refuses keypoints
        super().__init__(without, model, tta_mapper, batch_size)
        self.has_keypoints = cfg.MODEL.KEYPOINT_ON
        self.needs_masks = False
        self.flip_indices: list[int] = []
        if self.has_keypoints:
            head = getattr(self.model.roi_heads, "keypoint_head", None)
            self.needs_masks = getattr(head, "mask_guide", None) is not None
            self.flip_indices = _flip_indices(cfg, flip_indices)

    def _inference_one_image(self, input: dict) -> dict:
        if not self.has_keypoints:
            return super()._inference_one_image(input)
        with self._turn_off_roi_heads(["keypoint_on"]):
            result = super()._inference_one_image(input)
        merged = result["instances"]
        augmented, transforms = self._get_augmented_inputs(input)
        given = self._rescale_detected_boxes(augmented, merged, transforms)
        with self._turn_off_roi_heads([] if self.needs_masks else ["mask_on"]):
            outputs = self._batch_inference(augmented, given)
        merged.pred_keypoints = self._reduce_keypoints(outputs, transforms)
        return result

    def _reduce_keypoints(
        self, outputs: list[Instances], transforms: list[TransformList]
    ) -> Tensor:
        """(R, K, 3) in the original image: score-weighted mean positions and mean scores."""
        found = []
        for output, transform in zip(outputs, transforms):
            keypoints = output.pred_keypoints
            positions = keypoints[..., :2].reshape(-1, 2).cpu().numpy()
            back = torch.from_numpy(transform.inverse().apply_coords(positions.copy()))
            own = torch.cat([back.to(keypoints).view_as(keypoints[..., :2]), keypoints[..., 2:]], 2)
            if sum(isinstance(t, HFlipTransform) for t in transform.transforms) % 2:
                own = own[:, self.flip_indices]
            found.append(own)
        stacked = torch.stack(found)
        weights = stacked[..., 2:].clamp(min=0)
        # Keypoints that a class lacks score 0 everywhere and get the unweighted mean.
        weights = torch.where(weights.sum(dim=0) > 0, weights, torch.ones_like(weights))
        positions = (stacked[..., :2] * weights).sum(dim=0) / weights.sum(dim=0)
        return torch.cat([positions, stacked[..., 2:].mean(dim=0)], dim=2)


def _flip_indices(cfg, given: Sequence[int] | None) -> list[int]:
    number = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS
    if given is None:
        given = _of_data_sets(cfg)
    if len(given) != number or sorted(given) != list(range(number)):
        raise ConfigError(
            f"flip_indices are {list(given)}; expected each of 0 to {number - 1} once "
            "(MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS)."
        )
    return list(given)


def _of_data_sets(cfg) -> Sequence[int]:
    skeletons: SkeletonSet | None
    if "MRCNN_EXT" in cfg:
        skeletons = skeletons_from_config(cfg)
    else:
        names = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
        skeletons = SkeletonSet.from_metadata(MetadataCatalog.get(names[0])) if names else None
    if skeletons is None:
        raise ConfigError(
            "test-time augmentation mirrors images, and no data set of DATASETS.TRAIN or .TEST says "
            "which keypoints change places: set keypoint_names and keypoint_flip_map in its metadata, "
            "MRCNN_EXT.POSE.SKELETONS, or the argument flip_indices."
        )
    return skeletons.flip_indices
