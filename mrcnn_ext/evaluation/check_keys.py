# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The keys of the evaluation, checked before anything is trained."""

from __future__ import annotations

from detectron2.data import MetadataCatalog

from ..coco.read import class_names, read_categories
from ..config.check import check_config
from ..config.check_data import check_data
from ..config.check_training import check_training
from ..config.check_values import unexpected
from ..config.ranges import is_number
from ..errors import ConfigError, DataError
from ..messages import shorten, similar
from .matching import choose_backend
from .tasks import TASKS
from .tasks.false_positives import score_text

__all__ = ["check_evaluation", "check_whole_config", "evaluates_masks"]

# of Detectron2's "GN"
_NEEDS = {"segm": "MASK_ON", "boundary": "MASK_ON", "mask_quality": "MASK_ON"}
_NEEDS |= {"keypoints": "KEYPOINT_ON", "pck": "KEYPOINT_ON"}
# How names of losses on validation data begin, and those of the moving average
_LOSSES, _AVERAGE = "validation/", "ema/"


def check_whole_config(cfg, *, training: bool = False) -> None:
    """All that can be said of ``cfg`` before anything is built.

    Args:
        cfg: a config with the ``MRCNN_EXT`` node.
        training: it is to be trained; see :func:`~mrcnn_ext.config.check.check_config`.

    Raises:
        ConfigError: names the key, its value and what was expected.
    """
    check_config(cfg, training=training)
    check_training(cfg, training=training)
    check_data(cfg)
    check_evaluation(cfg)


def check_evaluation(cfg) -> None:
    """Check the node ``MRCNN_EXT.EVALUATION`` of ``cfg``.

    Raises:
        ConfigError: names the key, its value and what was expected.
    """
    node, keys = "MRCNN_EXT.EVALUATION", cfg.MRCNN_EXT.EVALUATION
    for name in keys.TASKS:
        if name not in TASKS:
            expected = f"some of {shorten(sorted(TASKS), 20)}"
            raise unexpected(f"{node}.TASKS", list(keys.TASKS), expected)
        switch = _NEEDS.get(name)
        if switch is not None and not cfg.MODEL[switch]:
            raise ConfigError(
                f"{node}.TASKS names '{name}', but MODEL.{switch} is False, so there is nothing to "
                "evaluate."
            )
    if not 0 < keys.BOUNDARY_DILATION < 1:
        expected = "a fraction of the image's diagonal, for example 0.02"
        raise unexpected(f"{node}.BOUNDARY_DILATION", keys.BOUNDARY_DILATION, expected)
    scores = keys.SCORE_THRESHOLDS
    if not scores or not all(is_number(score) and 0 <= score <= 1 for score in scores):
        raise unexpected(f"{node}.SCORE_THRESHOLDS", list(scores), "numbers from 0 to 1")
    if keys.BEST_MODE not in ("max", "min"):
        raise unexpected(f"{node}.BEST_MODE", keys.BEST_MODE, "'max' or 'min'")
    if len(keys.PCK_REFERENCE) not in (0, 2):
        expected = "the names of two keypoints, or none"
        raise unexpected(f"{node}.PCK_REFERENCE", list(keys.PCK_REFERENCE), expected)
    stopping = cfg.MRCNN_EXT.EARLY_STOPPING
    for key, metric in (
        (f"{node}.BEST_METRIC", keys.BEST_METRIC),
        ("MRCNN_EXT.EARLY_STOPPING.METRIC", stopping.METRIC),
    ):
        if metric:
            _check_metric(cfg, key, metric)
    try:
        choose_backend(keys.BACKEND)
    except ConfigError as error:
        raise ConfigError(f"{node}.BACKEND: {error}") from error


def evaluates_masks(cfg) -> bool:
    """Whether the evaluation of the config's model measures masks."""
    keys = cfg.MRCNN_EXT.EVALUATION
    asked = keys.TASKS if keys.ENABLED else ()
    return cfg.MODEL.MASK_ON and (not asked or any(TASKS[name].of_masks for name in asked))


def _check_metric(cfg, key: str, name: str) -> None:
    """Refuse a name that the evaluation cannot have. The first evaluation says of the rest."""
    if "/" not in name:
        raise unexpected(key, name, "TASK/METRIC, such as 'segm/AP'")
    if name.startswith(_LOSSES):
        for switch in ("ENABLED", "VALIDATION_LOSS"):
            if not cfg.MRCNN_EXT.EVALUATION[switch]:
                raise _missing(key, name, f"EVALUATION.{switch}")
        return
    whole = name
    if name.startswith(_AVERAGE):
        for switch in ("ENABLED", "EVALUATE"):
            if not cfg.MRCNN_EXT.EMA[switch]:
                raise _missing(key, name, f"EMA.{switch}")
        name = name[len(_AVERAGE) :]
    tests = list(cfg.DATASETS.TEST)
    types = {MetadataCatalog.get(test).get("evaluator_type") for test in tests}
    if not tests or not types <= {"coco", "lvis"}:  # other evaluators have names of their own
        return
    of_test = [test for test in tests if name.startswith(f"{test}/")]
    rest = name
    if len(tests) > 1:
        if not of_test:
            expected = f"one that begins with a test set's name: {', '.join(tests)}"
            raise unexpected(key, whole, f"{expected}, such as '{tests[0]}/{name}'")
        rest = name[len(max(of_test, key=len)) + 1 :]
    task, _, metric = rest.partition("/")
    asked = list(cfg.MRCNN_EXT.EVALUATION.TASKS) if cfg.MRCNN_EXT.EVALUATION.ENABLED else []
    tasks = asked or [t for t in TASKS if t not in _NEEDS or cfg.MODEL[_NEEDS[t]]]
    if task == "box_proposals":  # of a model without boxes of its own
        return
    if task not in tasks:
        if task not in TASKS and not cfg.MRCNN_EXT.EVALUATION.ENABLED:
            return  # of the script's own evaluator
        raise _unknown_metric(key, whole, f"'{task}' is not evaluated", tasks, task)
    classes = _classes(of_test[:1] or tests)
    scores = {score_text(score) for score in cfg.MRCNN_EXT.EVALUATION.SCORE_THRESHOLDS}
    counted = task != "false_positives" or _score(metric) in {"", *scores}
    if not (counted and TASKS[task].can_have(metric, classes)):
        metrics = [f"{task}/{m}" for m in TASKS[task].metrics]
        if not counted:
            metrics = [f"{task}/FP@{score}" for score in sorted(scores)]
        raise _unknown_metric(key, whole, "the evaluation does not have it", metrics, rest)


def _score(metric: str) -> str:
    """Of "FP@0.5-ring", "0.5"; empty if there is no such part."""
    return metric.partition("@")[2].partition("-")[0]


def _missing(key: str, name: str, switch: str) -> ConfigError:
    return ConfigError(f"{key} is '{name}', but MRCNN_EXT.{switch} is False; expected True.")


def _unknown_metric(key: str, name: str, why: str, known: list[str], wrong: str) -> ConfigError:
    near = ", ".join(similar(wrong, known))
    return ConfigError(
        f"{key} is '{name}', but {why}; "
        + (f"similar: {near}; " if near else "")
        + f"there are: {shorten(known, 20)}, and those of single classes."
    )


def _classes(datasets: list[str]) -> list[str] | None:
    """Class names of the first data set; None if they are not known yet."""
    metadata = MetadataCatalog.get(datasets[0])
    names = metadata.get("thing_classes")
    if not names and metadata.get("evaluator_type") == "coco" and metadata.get("json_file"):
        try:
            names = class_names(read_categories(metadata.json_file))
        except (DataError, OSError):  # which is said elsewhere
            return None
    return [str(name) for name in names] if names else None
