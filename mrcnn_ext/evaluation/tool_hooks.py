# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Evaluation by config for scripts that know nothing of this package, like Detectron2's train_net.py.

Evaluators and hooks have no registry in Detectron2: a script's own trainer class makes them. That
class, of the script that runs, gets two methods that call its own and add to them. Detectron2's
classes stay as they are.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Callable

from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultTrainer
from detectron2.engine import hooks as d2_hooks
from detectron2.evaluation import COCOEvaluator, DatasetEvaluators
from detectron2.utils import comm

from ..coco.rle import is_rle_list
from ..coco.values import is_finite
from ..engine import BestCheckpointer, ValidationLossHook, build_validation_loader
from ..errors import ConfigError
from ..messages import describe
from ..skeletons import SkeletonSet
from ..skeletons.names import COCO_PERSON_SIGMAS
from .coco_evaluator import MrcnnExtCOCOEvaluator
from .settings import EvaluationSettings

__all__ = ["add_evaluation_to_tool", "build_coco_evaluator", "build_evaluation_hooks"]

# Detectron2's tools print what is logged below its own name.
logger = logging.getLogger("detectron2." + __name__)

_MARK = "_mrcnn_ext_evaluation"
# A data set's evaluator_type -> what the script's own evaluators are replaced by.
_COCO_TYPES = ("coco", "lvis")


def add_evaluation_to_tool(cfg) -> list[type]:
    """Make ``MRCNN_EXT.EVALUATION`` work in the script that runs; calling it again changes nothing.

    If it is not enabled, this is for data sets that Detectron2's evaluator ends with an error for.

    Returns:
        Its trainer classes: subclasses of DefaultTrainer that its main module defines.
    """
    enabled = cfg.MRCNN_EXT.EVALUATION.ENABLED
    if not enabled and not any(_is_coco(name) for name in cfg.DATASETS.TEST):
        return []
    found = _trainer_classes()
    if not found and enabled:
        logger.warning(
            "MRCNN_EXT.EVALUATION.ENABLED is on, but the script that runs defines no subclass of "
            "DefaultTrainer, so that there is nothing to add evaluation to. In a script of your "
            "own, return mrcnn_ext.evaluation.build_coco_evaluator(cfg, dataset_name) from your "
            "trainer's build_evaluator, and add mrcnn_ext.evaluation.build_evaluation_hooks(trainer)"
            " to its hooks; in a LazyConfig, set dataloader.evaluator (docs/evaluation.md)."
        )
    for trainer_class in found:
        # Looked for in the class itself: what a subclass inherits is wrapped already.
        if not any(_MARK in vars(cls) for cls in trainer_class.__mro__):
            _wrap(trainer_class)
    return found


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

    Some annotations it cannot read. Of keypoints it knows one skeleton only, and its sigmas are COCO's
    unless the script gives it others: those of TEST.KEYPOINT_OKS_SIGMAS do not reach it by themselves.
    """
    unreadable = _unreadable(evaluator)
    if unreadable:
        logger.warning(
            f"Detectron2's evaluator cannot take '{dataset_name}', for {unreadable}; that of mrcnn_ext "
            "does it instead (MRCNN_EXT.EVALUATION.ENABLED: True always takes it)."
        )
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


def _trainer_classes() -> list[type]:
    main = sys.modules.get("__main__")
    classes = [
        value
        for value in vars(main).values()
        if isinstance(value, type)
        and issubclass(value, DefaultTrainer)
        and value.__module__ in ("__main__", "__mp_main__")  # the latter in spawned processes
    ]
    return sorted(set(classes), key=lambda cls: len(cls.__mro__))  # parents first


def _wrap(trainer_class) -> None:
    own_evaluator = trainer_class.build_evaluator.__func__
    own_hooks = trainer_class.build_hooks

    @functools.wraps(own_evaluator)
    def build_evaluator(cls, cfg, dataset_name, *args, **kwargs):
        evaluator_type = MetadataCatalog.get(dataset_name).get("evaluator_type")
        if cfg.MRCNN_EXT.EVALUATION.ENABLED and evaluator_type in _COCO_TYPES:
            return build_coco_evaluator(cfg, dataset_name, *args, **kwargs)
        evaluator = own_evaluator(cls, cfg, dataset_name, *args, **kwargs)
        everywhere = cfg.MRCNN_EXT.EVALUATION.ENABLED and evaluator_type == "coco_panoptic_seg"
        return _with_coco_replaced(
            evaluator,
            lambda member: everywhere or _stock_fails(cfg, dataset_name, member),
            functools.partial(build_coco_evaluator, cfg, dataset_name, *args, **kwargs),
        )

    @functools.wraps(own_hooks)
    def build_hooks(self):
        hooks = own_hooks(self)
        if not self.cfg.MRCNN_EXT.EVALUATION.ENABLED:
            return hooks
        # Writers come last in Detectron2, so that they see what the evaluation stored.
        last = next(
            (i for i, hook in enumerate(hooks) if isinstance(hook, d2_hooks.PeriodicWriter)),
            len(hooks),
        )
        return [*hooks[:last], *build_evaluation_hooks(self), *hooks[last:]]

    trainer_class.build_evaluator = classmethod(build_evaluator)
    trainer_class.build_hooks = build_hooks
    setattr(trainer_class, _MARK, True)


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
    unasked = not cfg.MRCNN_EXT.EVALUATION.MAX_DETECTIONS
    if unasked and per_image > 100 and comm.is_main_process():
        logger.info(
            f"'{dataset_name}': up to {settings.max_dets} detections of an image are evaluated."
        )
    return evaluator


def build_evaluation_hooks(trainer: DefaultTrainer) -> list:
    """The hooks that ``MRCNN_EXT.EVALUATION`` names, to run after EvalHook.

    Args:
        trainer: with "cfg", "model" and "checkpointer".

    Raises:
        ConfigError: BEST_MODE is neither "max" nor "min".
    """
    cfg = trainer.cfg
    keys = cfg.MRCNN_EXT.EVALUATION
    hooks: list = []
    if keys.VALIDATION_LOSS and not cfg.DATASETS.TEST and comm.is_main_process():
        logger.warning(
            "MRCNN_EXT.EVALUATION.VALIDATION_LOSS is True, but DATASETS.TEST is empty: there is no "
            "validation loss."
        )
    if keys.BEST_METRIC and not cfg.DATASETS.TEST and comm.is_main_process():
        logger.warning(
            f"MRCNN_EXT.EVALUATION.BEST_METRIC is '{keys.BEST_METRIC}', but DATASETS.TEST is empty: "
            "no checkpoint is the best."
        )
    if keys.VALIDATION_LOSS and cfg.DATASETS.TEST:
        hooks.append(
            ValidationLossHook(
                cfg.TEST.EVAL_PERIOD,
                trainer.model,
                functools.partial(build_validation_loader, cfg, tuple(cfg.DATASETS.TEST)),
            )
        )
    if keys.BEST_METRIC:
        if keys.BEST_MODE not in ("max", "min"):
            raise ConfigError(
                f"MRCNN_EXT.EVALUATION.BEST_MODE is '{keys.BEST_MODE}'; expected 'max' or 'min'."
            )
        if comm.is_main_process():  # the results are there alone
            hooks.append(
                BestCheckpointer(
                    cfg.TEST.EVAL_PERIOD, trainer.checkpointer, keys.BEST_METRIC, keys.BEST_MODE
                )
            )
    return hooks
