# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Repeat factor sampling, with frequencies of images, of objects, or of both."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from detectron2.data.samplers import RepeatFactorTrainingSampler
from detectron2.utils import comm

from ...config.check_data import SAMPLER_FREQUENCIES
from ...errors import ConfigError
from .held_classes import HeldClasses

__all__ = ["RepeatFactorSampling", "class_factors", "image_factors"]

# Detectron2's tools print what is logged below its own name.
logger = logging.getLogger("detectron2." + __name__)


class RepeatFactorSampling:
    """Makes Detectron2's RepeatFactorTrainingSampler for a list of records.

    In each pass over the data, an image comes as often as the factor of its rarest class says, rounded
    up or down at random so that the mean is the factor (Gupta et al., LVIS, CVPR 2019, appendix B.2).

    ``mrcnn_ext.data.build_train_loader`` takes it as ``sampler``.
    """

    def __init__(
        self,
        *,
        threshold: float = 0.001,
        frequency: str = "both",
        dataset_names: str | Sequence[str] = (),
        seed: int | None = None,
    ) -> None:
        """
        Args:
            threshold, frequency: of :func:`class_factors`.
            dataset_names: registered data sets, whose metadata have the names of the classes.
            seed: of the order; None: one that all processes share, drawn by Detectron2.

        Raises:
            ConfigError: an argument is out of range.
        """
        if not isinstance(threshold, (int, float)) or not 0 < threshold <= 1:
            raise ConfigError(
                f"the threshold of repeat factors is {threshold!r}; expected a number, more than 0 "
                "and at most 1."
            )
        if frequency not in SAMPLER_FREQUENCIES:
            raise ConfigError(
                f"the frequency of repeat factors is {frequency!r}; expected one of "
                f"{', '.join(SAMPLER_FREQUENCIES)}."
            )
        self.threshold, self.frequency = threshold, frequency
        self.dataset_names, self.seed = dataset_names, seed

    def __call__(self, records: Sequence[dict]) -> RepeatFactorTrainingSampler:
        """
        Args:
            records: of the data set, in its order; each with "annotations".

        Raises:
            DataError: they cannot be used; names the image.
        """
        held = HeldClasses.of_records(records, self.dataset_names)
        by_class = class_factors(held, self.threshold, self.frequency)
        by_image = image_factors(held, by_class)
        held.log(
            f"Repeat factors (threshold {self.threshold:g}, frequency of {self.frequency}): a pass "
            f"over {held.num_images} images has about {by_image.sum():.0f} samples.",
            by_class,
        )
        if by_class.max() == 1 and comm.is_main_process():
            logger.warning(
                "All repeat factors are 1, so that images are drawn as without them: no class is "
                f"rarer than the threshold, {self.threshold:g} (MRCNN_EXT.DATA.SAMPLER_THRESHOLD)."
            )
        return _FastSampler(torch.from_numpy(by_image).to(torch.float32), seed=self.seed)


class _FastSampler(RepeatFactorTrainingSampler):
    """The same stream of indices, a pass at once: exact resume goes through it from its beginning."""

    def _get_epoch_indices(self, generator: torch.Generator) -> torch.Tensor:
        up = torch.rand(len(self._frac_part), generator=generator) < self._frac_part
        times = self._int_part.to(torch.int64) + up.to(torch.int64)
        return torch.arange(len(times)).repeat_interleave(times)


def class_factors(held: HeldClasses, threshold: float, frequency: str = "both") -> np.ndarray:
    """Repeat factors max(1, √(threshold / f)) of classes whose frequency is f.

    Args:
        held: of the training images.
        threshold: in 0 … 1; rarer classes are repeated.
        frequency: what f is. "images": the fraction of all images that hold the class, as in LVIS and
            in Detectron2. "instances": the class's fraction of all objects. "both": the geometric
            mean of the two (Yaman et al. 2023, instance-aware repeat factor sampling).

    Returns:
        (K,) float64; 1 for a class that no image holds.
    """
    images = held.images_of_class / held.num_images
    objects = held.objects_of_class / held.objects.sum()
    f = {"images": images, "instances": objects, "both": np.sqrt(images * objects)}[frequency]
    factors = np.ones(len(f))
    there = f > 0
    factors[there] = np.maximum(1, np.sqrt(threshold / f[there]))
    return factors


def image_factors(held: HeldClasses, by_class: np.ndarray) -> np.ndarray:
    """The factor of each image: the largest of its classes'; 1 where there is none.

    Args:
        by_class: (K,).

    Returns:
        (N,) float64.
    """
    factors = np.ones(held.num_images)
    image, first = np.unique(held.image, return_index=True)
    factors[image] = np.maximum.reduceat(by_class[held.label], first)
    return factors
