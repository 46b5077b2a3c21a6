# The mask heads of docs/mask_heads/ as LazyConfig nodes, with the values of the COCO configs. All of
# them pool for themselves: use_mask_head(model, point_rend()).
from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec

from mrcnn_ext.modeling.mask_heads import (
    MrcnnExtBoundaryMaskHead,
    MrcnnExtDeepMaskHead,
    MrcnnExtDynamicMaskHead,
    MrcnnExtPointRendMaskHead,
    MrcnnExtRefineMaskHead,
)
from mrcnn_ext.modeling.poolers import FusedROIPooler

LEVELS = ("p2", "p3", "p4", "p5")


def use_mask_head(model, mask_head):
    """Put a head of this file into a Mask R-CNN FPN LazyConfig, in place."""
    model.roi_heads.mask_head = mask_head
    model.roi_heads.mask_pooler = None  # the head gets the feature maps
    model.roi_heads.mask_in_features = list(LEVELS)
    return model


def pooler(size, levels=LEVELS, sampling_ratio=0):
    return L(FusedROIPooler)(
        output_size=size,
        scales=tuple(1 / 2 ** int(level[1:]) for level in levels),
        sampling_ratio=sampling_ratio,
        pooler_type="ROIAlignV2",
    )


def common(channels, num_classes, size=14, levels=LEVELS, sampling_ratio=0):
    shapes = {level: ShapeSpec(channels=channels, stride=2 ** int(level[1:])) for level in LEVELS}
    return {
        "input_shape": shapes,
        "num_classes": num_classes,
        "pooler": pooler(size, levels, sampling_ratio),
        "in_features": list(levels),
        "resolution": size,
    }


def boundary(channels=256, num_classes=80):
    return L(MrcnnExtBoundaryMaskHead)(
        **common(channels, num_classes),
        conv_dim=channels,
        num_conv=4,
        boundary_pooler=pooler(28, ("p2",)),
        boundary_features=["p2"],
    )


def deep(channels=256, depth=52):
    return L(MrcnnExtDeepMaskHead)(**common(channels, 1, size=32), depth=depth, conv_norm="GN")


def dynamic(channels=256, num_classes=80):
    return L(MrcnnExtDynamicMaskHead)(
        **common(channels, num_classes),
        conv_dim=channels,
        num_conv=4,
        conv_norm="GN",
        losses=["dice"],
        map_pooler=pooler(56, ("p3",)),
        map_features=["p3", "p4", "p5"],
    )


def point_rend(channels=256, num_classes=80):
    return L(MrcnnExtPointRendMaskHead)(
        **common(channels, num_classes, levels=("p2",), sampling_ratio=1),
        conv_dim=channels,
        point_features=["p2"],
        output_resolution=224,
    )


def refine(channels=256, num_classes=80):
    return L(MrcnnExtRefineMaskHead)(
        **common(channels, num_classes), conv_dims=[channels] * 2, semantic_feature="p2"
    )
