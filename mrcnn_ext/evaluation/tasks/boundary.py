# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Boundary AP: COCO's AP by the smaller of mask IoU and boundary IoU, see ``../boundary.py``."""

from __future__ import annotations

from ..overlaps import Overlaps
from .ap import AveragePrecision
from .task import register_task

register_task(AveragePrecision("boundary", ("segmentation",), Overlaps.boundaries))
