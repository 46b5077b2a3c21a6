# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
from .deferred_masks import DeferredMaskInstances, DeferredMasks, instance_rles
from .gt_masks import mask_targets, pack_gt_masks
from .indexed_bitmasks import IndexedBitMasks
from .packed_polygons import PackedPolygonMasks
from .skeletons import DEFAULT_SIGMA, Skeleton, SkeletonSet

__all__ = [
    "DEFAULT_SIGMA",
    "DeferredMaskInstances",
    "DeferredMasks",
    "IndexedBitMasks",
    "PackedPolygonMasks",
    "Skeleton",
    "SkeletonSet",
    "instance_rles",
    "mask_targets",
    "pack_gt_masks",
]
