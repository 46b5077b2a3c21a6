# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Ground-truth masks with shared storage, lazily pasted predictions."""

from .._moved import moved_names
from .deferred_masks import DeferredMaskInstances, DeferredMasks, instance_rles
from .gt_masks import mask_targets, pack_gt_masks
from .indexed_bitmasks import IndexedBitMasks
from .packed_polygons import PackedPolygonMasks

__all__ = [
    "DeferredMaskInstances",
    "DeferredMasks",
    "IndexedBitMasks",
    "PackedPolygonMasks",
    "instance_rles",
    "mask_targets",
    "pack_gt_masks",
]

__getattr__ = moved_names(
    __name__,
    dict.fromkeys(("DEFAULT_SIGMA", "Skeleton", "SkeletonSet"), "mrcnn_ext.skeletons"),
)
