# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The training data of a LazyConfig, compared with its model and its test data before training."""

from __future__ import annotations

import os
from collections.abc import Sequence

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from omegaconf import DictConfig

from ..coco.read import class_names, differing_classes, read_categories
from ..config.ranges import is_number
from ..errors import ConfigError
from ..messages import shorten, similar
from .class_counts import warn_of_missing_masks
from .loading import check_masks_of_tests, check_when_loaded
from .negatives import load_records

__all__ = ["training_dicts", "use_training_dicts"]

_ADVICE = (
    "Let dataloader.train.mapper be mrcnn_ext.data.TrainingMapper with boxes_only=True, so that masks "
    "are evaluated without these objects, or name a set in which every object has a mask."
)
_MASKS = "${oc.select:model.roi_heads.mask_head._target_,null}"
_BOXES_ONLY = "${oc.select:dataloader.train.mapper.boxes_only,false}"
_EVALUATOR = "mrcnn_ext.evaluation.build.coco_evaluator"
_TRAIN, _TEST = "dataloader.train.dataset.names", "dataloader.test.dataset.names"


def training_dicts(
    names: str | Sequence[str],
    *,
    test_names: str | Sequence[str] | None = None,
    num_classes: int | None = None,
    negatives: float = 0.0,
    masks: object = None,
    boxes_only: bool = False,
    **kwargs,
) -> list[dict]:
    """Detectron2's ``get_detection_dataset_dicts``, after a look at what does not fit together.

    The configs of this package have it as ``dataloader.train.dataset``.

    Args:
        names: of the training sets.
        test_names: of the test sets, whose classes must be the same; None or empty: there are none.
        num_classes: of the model; None: not known.
        negatives: share of images without objects, see :func:`keep_negatives`; 0: as ``filter_empty``
            says.
        masks: the model's mask head, or its name; None: it has none, or it is not known.
        boxes_only: objects may have a box and no mask, also in test sets.
        kwargs: as for ``get_detection_dataset_dicts``.

    Raises:
        ConfigError: a data set is not registered, or has other classes; names the argument.
        DataError: an entry of a json cannot be used, or an object of a test set has no mask; names the
            file, the image and the annotation.
    """
    if not is_number(negatives) or not 0 <= negatives < 1:
        raise ConfigError(
            f"dataloader.train.dataset.negatives is {negatives!r}; expected a share of the images, "
            "from 0 to less than 1."
        )
    trains, tests = _listed(names), _listed(test_names)
    for key, listed in ((_TRAIN, trains), (_TEST, tests)):
        for name in listed:
            _check_registered(key, name)
    if not trains:
        raise ConfigError(f"{_TRAIN} is empty; expected the name of a registered data set.")
    check_when_loaded(
        trains,
        with_masks=False,
        need_objects=len(trains) == 1 and kwargs.get("filter_empty", True),
    )
    dicts = load_records(names, negatives, **kwargs)
    first = _classes(trains[0])
    for key, listed in ((_TRAIN, trains), (_TEST, tests)):
        for name in listed:
            classes = _classes(name)
            difference = differing_classes(first, classes) if first and classes else ""
            if difference:
                raise ConfigError(
                    f"'{name}' ({key}) has not the classes of '{trains[0]}' ({_TRAIN}): {difference}. "
                    "Names and their order (by category id) must be the same."
                )
    if first and num_classes is not None and len(first) != num_classes:
        raise ConfigError(
            f"model.roi_heads.num_classes is {num_classes}, but '{trains[0]}' ({_TRAIN}) has "
            f"{len(first)} classes: {shorten(first)}."
        )
    if masks and boxes_only:
        warn_of_missing_masks(dicts, trains)
    elif masks:
        check_masks_of_tests(tests, _ADVICE)
    return dicts


def use_training_dicts(dataloader) -> None:
    """Make :func:`training_dicts` the ``dataloader.train.dataset`` of a LazyConfig, in place.

    It is given the names of the test set, of the model its mask head and the number of classes, if it
    has them, and the mapper's ``boxes_only``, which Detectron2's evaluator gets a substitute for.
    """
    dataset = dataloader.train.dataset
    dataset._target_ = training_dicts
    dataset.test_names = "${...test.dataset.names}"
    dataset.num_classes = "${oc.select:model.roi_heads.num_classes,null}"
    dataset.masks, dataset.boxes_only = _MASKS, _BOXES_ONLY
    evaluator = dataloader.get("evaluator")
    if isinstance(evaluator, DictConfig) and evaluator.get("_target_") is COCOEvaluator:
        evaluator._target_ = _EVALUATOR
        evaluator.masks, evaluator.boxes_only = _MASKS, _BOXES_ONLY


def _listed(names: str | Sequence[str] | None) -> list[str]:
    return [names] if isinstance(names, str) else list(names or ())


def _check_registered(key: str, name: str) -> None:
    if name not in DatasetCatalog:
        near = ", ".join(similar(name, DatasetCatalog.keys()))
        raise ConfigError(
            f"{key} names '{name}', which is not registered"
            + (f"; similar names: {near}." if near else ".")
        )


def _classes(name: str) -> list[str]:
    """Class names; empty if they are not known."""
    metadata = MetadataCatalog.get(name)
    if metadata.get("thing_classes") is None and metadata.get("evaluator_type") == "coco":
        json_file = metadata.get("json_file")
        if json_file and os.path.isfile(json_file):
            return [str(n) for n in class_names(read_categories(json_file))]
    return list(metadata.get("thing_classes") or ())
