# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Pictures of what the model finds in some validation images, for the log."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from pathlib import PurePath

import cv2
import numpy as np
import torch
from detectron2.data import MetadataCatalog, get_detection_dataset_dicts
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import nn

from ..data.image_file import read_picture
from ..data.train_loader import mapper_from_config
from ..modes import restore_modes, same_random_numbers
from ..visualization import draw_comparison, draw_instances
from .evaluation_steps import is_evaluation_step

__all__ = ["PictureHook", "build_picture_hook", "spread_records"]

# Detectron2's tools print what is logged below its own name.
logger = logging.getLogger("detectron2." + __name__)

_WIDEST = 1600  # pixels of a picture's longer side in the log


class PictureHook(HookBase):
    """Put pictures of predictions, beside the ground truth if there is one, into the storage.

    The writers of TensorBoard, W&B and MLflow take them from there, and so does Detectron2's
    TensorboardXWriter. It draws after each evaluation, in the main process alone. Model, modes and
    random numbers are as before; a failure is a warning.
    """

    def __init__(
        self,
        *,
        eval_period: int,
        dataset_name: str,
        number: int,
        mapper: Callable[[dict], dict],
        model: nn.Module | None = None,
        proposal_file: Sequence[str] = (),
        score_threshold: float = 0.5,
        prefix: str = "validation/",
    ) -> None:
        """
        Args:
            eval_period: iterations between two evaluations; 0: after the last iteration alone.
            dataset_name: registered; its images are read when they are first needed.
            number: of images; see :func:`spread_records`.
            mapper: makes a model's input of a record, as a DatasetMapper for testing does.
            model: returns "instances" in eval mode; may be wrapped for several processes. None: the
                trainer's.
            proposal_file: of the data set, if the model needs one.
            score_threshold: predictions that score less are not drawn.
            prefix: of the names of pictures.
        """
        self._period = eval_period
        self._dataset_name, self._number, self._proposal_file = dataset_name, number, proposal_file
        self._mapper = mapper
        self._model = model
        self._score_threshold = score_threshold
        self._prefix = prefix
        self._records: list[dict] | None = None
        self._drawn = -1  # the last step after which there were pictures
        self._failed = False

    def after_step(self) -> None:
        if is_evaluation_step(self.trainer.iter, self._period, self.trainer.max_iter):
            self._drawn = self.trainer.iter
            self.draw()

    def after_train(self) -> None:
        done = self.trainer.iter + 1 >= self.trainer.max_iter
        if done and self._drawn != self.trainer.max_iter - 1:  # early stopping makes it the last
            self.draw()

    def draw(self) -> None:
        """Draw now, and put the pictures into the trainer's storage."""
        if not comm.is_main_process():
            return
        try:
            with same_random_numbers():
                if self._records is None:
                    self._records = spread_records(
                        self._dataset_name, self._number, proposal_file=self._proposal_file
                    )
                for index, record in enumerate(self._records):
                    name = f"{self._prefix}{index}_{PurePath(record['file_name']).stem}"
                    picture = self._picture(record)
                    self.trainer.storage.put_image(name, picture.transpose(2, 0, 1))
        except Exception as error:
            if not self._failed:
                self._failed = True
                logger.warning(
                    f"Validation pictures for the log cannot be made ({type(error).__name__}: {error})."
                    " Training goes on."
                )

    def _picture(self, record: dict) -> np.ndarray:
        model = self.trainer.model if self._model is None else self._model
        model = getattr(model, "module", model)
        inputs = self._mapper(copy.deepcopy(record))
        with restore_modes(model), torch.no_grad():
            model.eval()
            instances = model([inputs])[0]["instances"].to("cpu")
        image = read_picture(record["file_name"], getattr(self._mapper, "reader", None))
        threshold, metadata = self._score_threshold, MetadataCatalog.get(self._dataset_name)
        if record.get("annotations"):
            picture = draw_comparison(
                record, instances, metadata, image=image, score_threshold=threshold
            )
        else:
            picture = draw_instances(image, instances, metadata, score_threshold=threshold)
        factor = _WIDEST / max(picture.shape)
        if factor < 1:
            picture = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        return picture


def build_picture_hook(cfg, model: nn.Module) -> PictureHook | None:
    """The hook that ``MRCNN_EXT.LOG.IMAGES`` asks for, to run after EvalHook and before the writers.

    Args:
        cfg: a config with the ``MRCNN_EXT`` node.
        model: of the trainer.

    Returns:
        None if there is nothing to draw, which is a warning if there are no test data.
    """
    number = cfg.MRCNN_EXT.LOG.IMAGES
    if not number:
        return None
    if not cfg.DATASETS.TEST:
        if comm.is_main_process():
            logger.warning(
                f"MRCNN_EXT.LOG.IMAGES is {number}, but DATASETS.TEST is empty: no pictures are drawn."
            )
        return None
    files = cfg.DATASETS.PROPOSAL_FILES_TEST if cfg.MODEL.LOAD_PROPOSALS else ()
    return PictureHook(
        eval_period=cfg.TEST.EVAL_PERIOD,
        dataset_name=cfg.DATASETS.TEST[0],
        number=number,
        mapper=mapper_from_config(cfg, is_train=False),
        model=model,
        proposal_file=files[:1],
    )


def spread_records(
    dataset_name: str, number: int, *, proposal_file: Sequence[str] = ()
) -> list[dict]:
    """Images at equal distances in a data set: the same each time, and not all of one scene.

    Args:
        dataset_name: registered.
        number: how many at most. Images with annotations are taken if there are any.
        proposal_file: of the data set, if the model needs one.

    Returns:
        records in Detectron2's dataset format.
    """
    records = get_detection_dataset_dicts(
        [dataset_name], filter_empty=False, proposal_files=list(proposal_file) or None
    )
    annotated = [record for record in records if record.get("annotations")]
    records = annotated or records
    number = min(number, len(records))
    return [records[index * len(records) // number] for index in range(number)]
