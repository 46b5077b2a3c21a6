# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Divide a COCO data set into parts, or into folds."""

from .assign import assign
from .divide import WAYS, Division, divide, group_keys

__all__ = ["WAYS", "Division", "assign", "divide", "group_keys"]
