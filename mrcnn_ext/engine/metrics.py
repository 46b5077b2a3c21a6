# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Metrics of the evaluation that hooks act on."""

from __future__ import annotations

import math

from detectron2.evaluation.testing import flatten_results_dict

from ..errors import ConfigError
from ..messages import similar
from .ema import EMA_PREFIX, find_ema

__all__ = ["check_metric"]


def check_metric(trainer, metric: str, key: str) -> None:
    """Refuse a metric that the evaluation, which has just run, does not have.

    Args:
        trainer: with a storage; its ``_last_eval_results`` are those of a DefaultTrainer.
        metric: its name in the storage.
        key: that names it, for the message.

    Raises:
        ConfigError: names the metrics that there are.
    """
    if metric in trainer.storage.latest():
        return
    results = flatten_results_dict(getattr(trainer, "_last_eval_results", None) or {})
    if metric.startswith(EMA_PREFIX) and find_ema(trainer) is not None:
        results = {EMA_PREFIX + name: value for name, value in results.items()}
    # A model that finds nothing at all yet has fewer results, all of them NaN.
    if any(math.isfinite(value) for value in results.values()):
        near = similar(metric, results)
        raise ConfigError(
            f"{key} is '{metric}', which the evaluation does not have; "
            + (f"similar: {', '.join(near)}; " if near else "")
            + f"there are: {', '.join(results)}."
        )
