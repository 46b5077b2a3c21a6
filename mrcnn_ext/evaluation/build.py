# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The evaluator that a config asks for, in the place of the one that a script would build."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable

from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator, DatasetEvaluators
from detectron2.utils import comm

from .._moved import moved_names
from ..coco.read import missing_masks
from ..coco.rle import is_rle_list
from ..coco.values import is_finite
from ..data.loading import boxes_only_needed
from ..errors import ConfigError, DataError
from ..messages import describe
from ..skeletons import SkeletonSet
from ..skeletons.names import COCO_PERSON_SIGMAS
from .check_keys import evaluates_masks
from .coco_evaluator import MrcnnExtCOCOEvaluator
from .settings import EvaluationSettings
from .tasks import TASKS

__all__ = ["build_coco_evaluator", "build_evaluator", "coco_evaluator", "replaces_evaluators"]

__getattr__ = moved_names(__name__, {"build_evaluation_hooks": "mrcnn_ext.engine"})

# Detectron2's tools print what is logged below its own name.
logger = logging.getLogger("detectron2." + __name__)

_ADVICE = (  # for a LazyConfig
    "Set boxes_only=True of dataloader.evaluator, which evaluates masks without these objects, or "
    "name a set in which every object has a mask."
)
# evaluator_type of data sets that MrcnnExtCOCOEvaluator is for
_COCO_TYPES = ("coco", "lvis")


def replaces_evaluators(cfg) -> bool:
    """Whether :func:`build_evaluator` may give another evaluator than the script's own.

    If ``MRCNN_EXT.EVALUATION`` is not enabled, this is for data sets that Detectron2's evaluator ends
    with an error for.
    """
    return cfg.MRCNN_EXT.EVALUATION.ENABLED or any(_is_coco(name) for name in cfg.DATASETS.TEST)


def build_evaluator(cfg, dataset_name: str, own: Callable, *args, **kwargs):
    """The evaluator of a data set.

    Args:
        own: builds the script's own, given no arguments.
        args, kwargs: further arguments of the trainer's ``build_evaluator``: the output folder.

    Raises:
        ConfigError: a key of ``MRCNN_EXT.EVALUATION`` holds what is invalid.
        DataError: an object has no mask, which would end the evaluation; names the first.
    """
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type")
    enabled = cfg.MRCNN_EXT.EVALUATION.ENABLED
    if enabled and kind in _COCO_TYPES:
        return build_coco_evaluator(cfg, dataset_name, *args, **kwargs)
    everywhere = enabled and kind == "coco_panoptic_seg"
    return _with_coco_replaced(
        own(),
        lambda member: everywhere or _stock_fails(cfg, dataset_name, member),
        functools.partial(build_coco_evaluator, cfg, dataset_name, *args, **kwargs),
    )


def _is_coco(dataset_name: str) -> bool:
    return MetadataCatalog.get(dataset_name).get("evaluator_type") in _COCO_TYPES


def _unreadable(evaluator) -> str:
    """What of its ground truth ends pycocotools with an error, or Detectron2's form of it; or ""."""
    truth = getattr(evaluator, "_coco_api", None)
    for annotation in truth.dataset.get("annotations", ()) if truth is not None else ():
        number = annotation.get("id")
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < 2**63:
            return f"the annotation's id {describe(number)}"
        if annotation.get("iscrowd") not in (0, 1):
            return f"iscrowd {describe(annotation.get('iscrowd'))} of annotation {number}"
        if not is_finite(annotation.get("area")):
            return f"area {describe(annotation.get('area'))} of annotation {number}"
        if is_rle_list(annotation.get("segmentation")):
            return f"the list of RLE of annotation {number}"
        if "bbox" not in annotation:
            return f"annotation {number} without bbox"
    return ""


def _missing_masks(cfg, dataset_name: str, evaluator) -> str:
    """Which objects have no mask; "" if masks are not measured or nothing is missing.

    Raises:
        DataError: objects without a mask are not expected.
    """
    truth = getattr(evaluator, "_coco_api", None)
    if truth is None or not evaluates_masks(cfg):
        return ""
    problem = missing_masks(truth.dataset.get("annotations", ()))
    if problem and not cfg.MRCNN_EXT.DATA.BOXES_ONLY:
        source = MetadataCatalog.get(dataset_name).get("json_file", dataset_name)
        raise DataError(boxes_only_needed(source, dataset_name, problem))
    return problem and f"the masks: {problem}"


def _may_fail(cfg, dataset_name: str) -> bool:
    """Whether a script's COCOEvaluator may not know a data set's keypoints; see `_stock_fails`."""
    if not cfg.MODEL.KEYPOINT_ON:
        return False
    skeletons = SkeletonSet.from_metadata(MetadataCatalog.get(dataset_name))
    if skeletons is None:
        return False
    number = skeletons.num_keypoints
    own_sigmas = bool(cfg.TEST.KEYPOINT_OKS_SIGMAS)
    return own_sigmas or len(skeletons.skeletons) > 1 or number != len(COCO_PERSON_SIGMAS)


def _stock_fails(cfg, dataset_name: str, evaluator) -> bool:
    """Whether Detectron2's COCOEvaluator evaluates wrongly, or ends with an error.

    Some annotations it cannot read, and masks it measures on all objects only. Of keypoints it knows
    one skeleton only, and its sigmas are COCO's unless the script gives it others: those of
    TEST.KEYPOINT_OKS_SIGMAS do not reach it by themselves.
    """
    unreadable = _unreadable(evaluator) or _missing_masks(cfg, dataset_name, evaluator)
    if unreadable:
        always = " (MRCNN_EXT.EVALUATION.ENABLED: True always takes it)"
        _log_replaced(dataset_name, unreadable, always)
        return True
    if not _may_fail(cfg, dataset_name):
        return False
    skeletons = SkeletonSet.from_metadata(MetadataCatalog.get(dataset_name))
    assert skeletons is not None
    given = getattr(evaluator, "_kpt_oks_sigmas", None)
    number = len(COCO_PERSON_SIGMAS if given is None or not len(given) else given)
    if len(skeletons.skeletons) > 1 or number != skeletons.num_keypoints:
        return True
    asked = tuple(cfg.TEST.KEYPOINT_OKS_SIGMAS)
    return bool(asked) and asked != COCO_PERSON_SIGMAS and (given is None or not len(given))


def _log_replaced(dataset_name: str, reason: str, always: str = "") -> None:
    logger.warning(
        f"Detectron2's evaluator cannot take '{dataset_name}', for {reason}; that of mrcnn_ext does it "
        f"instead{always}."
    )


def _with_coco_replaced(
    evaluator, wanted: Callable[[object], bool], build: Callable[[], MrcnnExtCOCOEvaluator]
):
    """Ours in the place of Detectron2's COCOEvaluator where it is wanted, also among others."""
    members = getattr(evaluator, "_evaluators", None) or [evaluator]
    kept = [build() if type(e) is COCOEvaluator and wanted(e) else e for e in members]
    if all(a is b for a, b in zip(kept, members)):
        return evaluator
    return kept[0] if len(members) == 1 and members[0] is evaluator else DatasetEvaluators(kept)


def build_coco_evaluator(
    cfg, dataset_name: str, output_folder: str | None = None
) -> MrcnnExtCOCOEvaluator:
    """The evaluator that ``MRCNN_EXT.EVALUATION`` describes.

    Args:
        cfg: a config with the ``MRCNN_EXT`` node.
        dataset_name: a registered data set.
        output_folder: where results are written; by default OUTPUT_DIR/inference.

    Raises:
        ConfigError: a key holds what is invalid.
        DataError: an object has no mask, which would end the evaluation; names the first.
    """
    per_image = cfg.TEST.DETECTIONS_PER_IMAGE
    try:
        settings = EvaluationSettings.from_config(cfg, dataset_name)
        evaluator = MrcnnExtCOCOEvaluator(
            dataset_name,
            output_dir=output_folder or os.path.join(cfg.OUTPUT_DIR, "inference"),
            settings=settings,
        )
    except ConfigError as error:
        raise ConfigError(f"MRCNN_EXT.EVALUATION: {error}") from error
    _missing_masks(cfg, dataset_name, evaluator)
    unasked = not cfg.MRCNN_EXT.EVALUATION.MAX_DETECTIONS
    if unasked and per_image > 100 and comm.is_main_process():
        logger.info(
            f"'{dataset_name}': up to {settings.max_dets} detections of an image are evaluated."
        )
    return evaluator


def coco_evaluator(
    dataset_name: str, *args, masks: object = None, boxes_only: bool = False, **kwargs
) -> COCOEvaluator:
    """Detectron2's COCOEvaluator; this package's, where objects of the data set have no mask.

    The LazyConfigs of this package have it as ``dataloader.evaluator``.

    Args:
        masks: the model's mask head, or its name; None: it has none.
        boxes_only: see :class:`EvaluationSettings`.
        args, kwargs: as for ``COCOEvaluator``.

    Raises:
        DataError: masks are evaluated, and an object has none, without ``boxes_only``.
    """
    stock = COCOEvaluator(dataset_name, *args, **kwargs)
    tasks = getattr(stock, "_tasks", None)
    measured = masks and (
        not tasks or any(name in TASKS and TASKS[name].of_masks for name in tasks)
    )
    problem = missing_masks(stock._coco_api.dataset.get("annotations", ()))
    if not (measured and problem):
        return stock
    if not boxes_only:
        source = MetadataCatalog.get(dataset_name).get("json_file", dataset_name)
        raise DataError(boxes_only_needed(source, dataset_name, problem, _ADVICE))
    _log_replaced(dataset_name, f"the masks: {problem}")
    for name in ("use_fast_impl", "allow_cached_coco"):  # of the stock one alone
        kwargs.pop(name, None)
    return MrcnnExtCOCOEvaluator(dataset_name, *args, boxes_only=True, **kwargs)
