# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""From a record of a data set to a training sample."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.data import DatasetMapper
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from fvcore.transforms.transform import Transform, TransformList

from ..errors import ConfigError, DataError
from .augmentation import Sample, SampleAugmentation, augmentations_from_config
from .augmentation.check_pixels import check_pixels
from .augmentation.sample import clipped_box
from .image_file import ImageReader
from .instances import filter_empty, to_instances

__all__ = ["TrainingMapper"]

# Detectron2's tools print what is logged below its own name.
logger = logging.getLogger("detectron2." + __name__)


class TrainingMapper(DatasetMapper):
    """Detectron2's DatasetMapper, with augmentations that it does not have.

    It takes and gives the same. With Detectron2's augmentations alone, and ``min_area_left`` 0, every
    sample is the same, too, but for masks that are cropped: their polygons are cut without ``shapely``,
    and their boxes are always those of what is left.

    Objects of which nothing is left are dropped, and those of which fewer than ``min_area_left`` pixels
    are left. After all that cuts objects (crops, rotation, holes, copy-paste), boxes are those of the
    masks; flips, resizing and padding move the boxes of the data set.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: Sequence[T.Augmentation | Transform | SampleAugmentation],
        image_format: str,
        min_area_left: float = 0.0,
        boxes_only: bool = False,
        dataset: Sequence[dict] | None = None,
        bands: Sequence[int] = (),
        pixel_type: str = "uint8",
        rgb_bands: Sequence[int] = (),
        **kwargs,
    ) -> None:
        """
        Args:
            is_train: False: as Detectron2's mapper, for testing, without annotations.
            augmentations: Detectron2's, and those of ``mrcnn_ext.data.augmentation``.
            image_format: order of the channels, such as "BGR".
            min_area_left: in pixels of the augmented picture; of the box where there is no mask.
            boxes_only: objects may lack a mask; see :func:`to_instances`.
            dataset: records that copy-paste draws from; ``mrcnn_ext.data.build_train_loader`` sets it.
            bands, pixel_type, rgb_bands: as MRCNN_EXT.DATA.BANDS, PIXEL_TYPE and RGB_BANDS.
            kwargs: as for DatasetMapper.

        Raises:
            ConfigError: an argument has a value that cannot work, or an augmentation cannot work on
                such masks or such bands.
        """
        steps = list(augmentations)
        plain = [step for step in steps if not isinstance(step, SampleAugmentation)]
        super().__init__(is_train, augmentations=plain, image_format=image_format, **kwargs)
        # AugmentationList makes augmentations of plain transforms.
        made = iter(self.augmentations.augs)
        self.steps = [s if isinstance(s, SampleAugmentation) else next(made) for s in steps]
        if self.needs_dataset:
            logger.info(f"All augmentations, in their order: {self.steps}")
        self.min_area_left = min_area_left
        if not isinstance(boxes_only, bool):
            raise ConfigError(f"the mapper's boxes_only is {boxes_only!r}; expected True or False.")
        self.boxes_only = boxes_only and self.use_instance_mask
        self.dataset = dataset
        self.reader = ImageReader(image_format, _tuple(bands), pixel_type, _tuple(rgb_bands))
        self._check_masks()
        if self.reader.by_band:
            check_pixels(self.steps, self.reader)

    @classmethod
    def from_config(cls, cfg, is_train: bool = True, dataset: Sequence[dict] | None = None) -> dict:
        out = DatasetMapper.from_config(cfg, is_train)
        if is_train:
            out["augmentations"] = augmentations_from_config(cfg)
        # Set where something is cut, whatever cut it.
        out["recompute_boxes"] = False
        keys = cfg.MRCNN_EXT.DATA
        out.update(min_area_left=keys.MIN_AREA_LEFT, boxes_only=keys.BOXES_ONLY, dataset=dataset)
        out.update(bands=keys.BANDS, pixel_type=keys.PIXEL_TYPE, rgb_bands=keys.RGB_BANDS)
        return out

    @property
    def needs_dataset(self) -> bool:
        """Whether samples are made of several pictures."""
        return any(isinstance(step, SampleAugmentation) for step in self.steps)

    def __call__(self, dataset_dict: dict) -> dict:
        """A record in Detectron2's form; what its models train on.

        Raises:
            DataError: the record cannot be used, or an augmentation cannot work on it; names the file.
        """
        if not self.is_train and not self.reader.by_band:
            return super().__call__(dataset_dict)
        out = copy.deepcopy(dataset_dict)
        if not self.is_train:
            out.pop("annotations", None)
        sample = self.sample(out)
        out.pop("sem_seg_file_name", None)
        image = np.ascontiguousarray(sample.image.transpose(2, 0, 1))
        out["image"] = torch.as_tensor(image)
        if sample.sem_seg is not None:
            out["sem_seg"] = torch.as_tensor(sample.sem_seg.astype("long"))
        if self.proposal_topk is not None:
            transforms = TransformList(sample.transforms)
            utils.transform_proposals(
                out, sample.size, transforms, proposal_topk=self.proposal_topk
            )
        if out.pop("annotations", None) is not None:
            out["instances"] = self._instances(sample, out)
        return out

    def sample(self, record: dict, *, steps: int | None = None) -> Sample:
        """The augmented picture and its objects, before they become what a model takes.

        Args:
            record: of the data set.
            steps: how many augmentations to apply, from the first; None: all.
        """
        return self._augmented(record, self.steps[:steps])

    def _augmented(self, record: dict, steps: Sequence) -> Sample:
        sample = self._read(record)
        for index, step in enumerate(steps):
            try:
                if isinstance(step, SampleAugmentation):
                    before = [s for s in steps[:index] if not isinstance(s, SampleAugmentation)]
                    step.apply(sample, lambda before=before: self._other(before))  # type: ignore[misc]
                else:
                    sample.augment(step)
            except (DataError, ConfigError):
                raise
            except ValueError as error:
                raise DataError(f"{_name(record)}: {type(step).__name__}: {error}.") from error
        return sample

    def _other(self, steps: Sequence) -> Sample:
        if self.dataset is None:
            raise ConfigError(
                "CopyPaste needs the data set that it takes other pictures from: let "
                "mrcnn_ext.data.build_train_loader be dataloader.train, which gives it to the mapper, "
                "or set the mapper's argument dataset."
            )
        record = self.dataset[np.random.randint(len(self.dataset))]
        return self._augmented(dict(record), steps)

    def _read(self, record: dict) -> Sample:
        image = self.reader(record["file_name"])
        utils.check_image_size(record, image)  # adds the size if it is missing
        sem_seg = None
        if "sem_seg_file_name" in record:
            if any(getattr(step, "needs_bitmasks", False) for step in self.steps):
                raise DataError(
                    f"{_name(record)} has a semantic segmentation, which CopyPaste, Cutout and "
                    "Albumentations do not change; leave them out of the augmentations."
                )
            sem_seg = utils.read_image(record["sem_seg_file_name"], "L").squeeze(2)
        annotations = [
            {k: v for k, v in annotation.items() if self._uses(k)}
            for annotation in record.get("annotations", ())
        ]
        try:
            return Sample(
                image,
                annotations,
                sem_seg=sem_seg,
                flip_indices=self.keypoint_hflip_indices,
                by_band=self.reader.by_band or image.shape[2:] == (1,),
            )
        except ValueError as error:
            raise DataError(f"{_name(record)}: {error}.") from error

    def _uses(self, key: str) -> bool:
        if key == "segmentation":
            return self.use_instance_mask
        return key != "keypoints" or self.use_keypoint

    def _instances(self, sample: Sample, record: dict):
        if self.instance_mask_format == "bitmask":
            sample.rasterise()
        if sample.boxes_change or self.recompute_boxes:
            sample.tighten()
        if self.min_area_left:
            sample.drop_small(self.min_area_left)
        for each in sample.objects:
            masks = each.get("segmentation")
            if isinstance(masks, list):
                each["segmentation"] = [points.reshape(-1) for points in masks]
            each["bbox"] = clipped_box(each["bbox"], sample.size)
        masked = sum("segmentation" in each for each in sample.objects)
        if 0 < masked < len(sample.objects) and not self.boxes_only:
            raise DataError(
                f"{_name(record)}: {len(sample.objects) - masked} of its {len(sample.objects)} objects "
                "have no segmentation; training with masks needs one of each, or "
                "MRCNN_EXT.DATA.BOXES_ONLY (the mapper's boxes_only)."
            )
        instances = to_instances(
            sample.objects,
            sample.size,
            mask_format=self.instance_mask_format,
            boxes_only=self.boxes_only,
        )
        return filter_empty(instances)

    def _check_masks(self) -> None:
        if not self.use_instance_mask or self.instance_mask_format == "bitmask":
            return
        for step in self.steps:
            if getattr(step, "needs_bitmasks", False):
                raise ConfigError(
                    f"the mapper's instance_mask_format is '{self.instance_mask_format}', but "
                    f"{type(step).__name__} works on pixels of masks; expected 'bitmask'."
                )


def _tuple(values):
    """Of a list, also one of a LazyConfig; what is none is an error of the reader's check."""
    is_list = isinstance(values, Sequence) and not isinstance(values, str)
    return tuple(values) if is_list else values


def _name(record: dict) -> str:
    return f"image {record.get('file_name')}"
