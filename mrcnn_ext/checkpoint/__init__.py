# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Weights from elsewhere: ``timm://`` addresses."""

from .timm_weights import TimmWeightsHandler, register_timm_weights_handler

__all__ = ["TimmWeightsHandler", "register_timm_weights_handler"]

register_timm_weights_handler()
