# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Compute the model's losses on a validation set."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable

import torch
from detectron2.data import (
    DatasetCatalog,
    build_detection_test_loader,
    detection_utils,
    get_detection_dataset_dicts,
)
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn

from ..data import TrainingMapper
from ..data.train_loader import mapper_from_config
from ..modes import losses_in_eval, same_random_numbers
from .evaluation_steps import is_evaluation_step

__all__ = ["ValidationLossHook", "build_validation_loader", "validation_losses"]

logger = logging.getLogger("detectron2." + __name__)  # which its tools print


class ValidationLossHook(HookBase):
    """Write the losses on a validation set to the trainer's storage, as often as it is evaluated.

    Args:
        eval_period: iterations between two runs; 0 runs it after the last iteration alone.
        model: any model of Detectron2 that returns a dict of losses; may be wrapped for several
            processes.
        build_loader: makes the loader of annotated images when it is first needed, for example
            ``lambda: build_validation_loader(cfg, name)``. Each process loads its own part.
        prefix: of the names in the storage.
    """

    def __init__(
        self,
        eval_period: int,
        model: nn.Module,
        build_loader: Callable[[], Iterable[list[dict]]],
        prefix: str = "validation/",
    ) -> None:
        self._period = eval_period
        self._model = model
        self._build_loader = build_loader
        self._loader: Iterable[list[dict]] | None = None
        self._prefix = prefix
        self._done_after = -1  # number of steps before the last run

    def after_step(self) -> None:
        if is_evaluation_step(self.trainer.iter, self._period, self.trainer.max_iter):
            self._run()

    def after_train(self) -> None:
        # Training that stopped early ends with a step after which it ran.
        if self.trainer.iter + 1 >= self.trainer.max_iter and self._done_after != self.trainer.iter:
            self._run()

    def _run(self) -> None:
        self._done_after = self.trainer.iter + 1
        if self._loader is None:
            self._loader = self._build_loader()
        losses = validation_losses(self._model, self._loader)
        comm.synchronize()  # evaluation takes different times on different processes
        if losses:
            scalars = {self._prefix + name: value for name, value in losses.items()}
            self.trainer.storage.put_scalars(**scalars, smoothing_hint=False)


def build_validation_loader(cfg, dataset_names: str | tuple[str, ...]) -> Iterable[list[dict]]:
    """Build a loader of ``dataset_names`` with test-time image sizes and training annotations.

    Images without annotations are left out if training leaves them out. A data set without any is
    left out with a warning; if there is no other, the loader is an empty list.
    """
    names = (dataset_names,) if isinstance(dataset_names, str) else tuple(dataset_names)
    dicts, skipped = [], []
    files = cfg.DATASETS.PROPOSAL_FILES_TEST if cfg.MODEL.LOAD_PROPOSALS else [None] * len(names)
    for name, file in zip(names, files):
        found = _annotated_dicts(cfg, name, file)
        dicts += found
        if not found:
            skipped.append(name)
    if skipped and comm.is_main_process():
        logger.warning(
            f"No annotation of {', '.join(map(repr, skipped))} can be trained on: the validation loss "
            + ("leaves it out." if dicts else "is not computed.")
        )
    if not dicts:
        return []
    augmentations = detection_utils.build_augmentation(cfg, is_train=False)
    mapper = mapper_from_config(cfg, True, augmentations=augmentations)
    if isinstance(mapper, TrainingMapper):
        mapper.min_area_left = 0.0  # that key is of augmented pictures
    return build_detection_test_loader(dicts, mapper=mapper, num_workers=cfg.DATALOADER.NUM_WORKERS)


def _annotated_dicts(cfg, name: str, proposal_file: str | None) -> list[dict]:
    """Detectron2's dicts of a data set; none if no image has an object that training takes."""
    dicts = DatasetCatalog.get(name)
    if not any(a.get("iscrowd", 0) == 0 for d in dicts for a in d.get("annotations", ())):
        return []
    try:
        return get_detection_dataset_dicts(
            name,
            filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
            min_keypoints=cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE
            if cfg.MODEL.KEYPOINT_ON
            else 0,
            proposal_files=[proposal_file] if proposal_file else None,
        )
    except AssertionError:  # too few keypoints in every image
        return []


def validation_losses(
    model: nn.Module, loader: Iterable[list[dict]], seed: int = 0
) -> dict[str, float]:
    """Means of the model's losses over a data set.

    Model and random state are unchanged afterwards: normalisation layers use their statistics without
    updating them, dropout is off, buffers are restored. Proposals are sampled with ``seed``, so that
    the values of two calls can be compared.

    Args:
        model: returns a dict of losses in training mode.
        loader: gives batches with ground truth.
        seed: of the sampling.

    Returns:
        name -> mean over the images of all processes, and "total_loss", in the main process; an
        empty dict in the others.
    """
    model = getattr(model, "module", model)  # no DistributedDataParallel: nothing is to be shared
    sums: dict[str, float] = defaultdict(float)
    images = 0
    with losses_in_eval(model), same_random_numbers(seed), EventStorage(1), torch.no_grad():
        for batch in loader:
            for name, value in model(batch).items():
                sums[name] += float(value) * len(batch)
            images += len(batch)
    everywhere = comm.gather((dict(sums), images), dst=0)
    total = sum(count for _, count in everywhere)
    if not total:
        return {}
    names = sorted({name for part, _ in everywhere for name in part})
    means = {name: sum(part.get(name, 0.0) for part, _ in everywhere) / total for name in names}
    return {**means, "total_loss": sum(means.values())}
