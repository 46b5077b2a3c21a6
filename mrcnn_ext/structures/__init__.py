# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
from .deferred_masks import DeferredMaskInstances, DeferredMasks, instance_rles

__all__ = ["DeferredMaskInstances", "DeferredMasks", "instance_rles"]
