# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Mask heads: what is measured, tabulated and drawn of them."""

from .kind import MaskKind

__all__ = ["MaskKind"]
