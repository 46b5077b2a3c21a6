# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Annotations of other tools as COCO json, and back."""

from .convert import convert_from_coco, convert_to_coco
from .options import Options
from .readers import READERS
from .writers import WRITERS

__all__ = ["READERS", "WRITERS", "Options", "convert_from_coco", "convert_to_coco"]
