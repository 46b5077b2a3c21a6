# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The kinds of heads that can be compared, by the name that ``--part`` takes."""

from __future__ import annotations

from .keypoint import KeypointKind
from .kind import HeadKind
from .mask import MaskKind

__all__ = ["HEAD_KINDS", "KEYPOINT", "MASK", "HeadKind"]

MASK = MaskKind()
KEYPOINT = KeypointKind()
HEAD_KINDS: dict[str, HeadKind] = {kind.name: kind for kind in (MASK, KEYPOINT)}
