# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Heads compared by paired trainings: ``python -m mrcnn_ext.compare``, docs/compare.md."""

from .kinds import HEAD_KINDS
from .plan import Plan, Variant, parse_variant
from .schedule import evaluate_only, train_all
from .statistics import Interval, paired_bootstrap

__all__ = [
    "HEAD_KINDS",
    "Interval",
    "Plan",
    "Variant",
    "evaluate_only",
    "paired_bootstrap",
    "parse_variant",
    "train_all",
]
