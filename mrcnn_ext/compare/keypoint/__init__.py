# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Keypoint heads: what is measured, tabulated and drawn of them."""

from .kind import KeypointKind

__all__ = ["KeypointKind"]
