# A keypoint head for a Mask R-CNN FPN LazyConfig.
from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec

from mrcnn_ext.modeling.keypoint_codecs import GaussianCodec
from mrcnn_ext.modeling.keypoint_heads import MrcnnExtHeatmapKeypointHead
from mrcnn_ext.modeling.poolers import FusedROIPooler


def add_keypoints(model, num_keypoints, channels=256, conv_dims=(512,) * 8, conv_norm=""):
    """Put a heatmap head with the Gaussian codec beside the mask head, in place."""
    model.roi_heads.keypoint_in_features = ["p2", "p3", "p4", "p5"]
    model.roi_heads.keypoint_pooler = L(FusedROIPooler)(
        output_size=14,
        scales=(1 / 4, 1 / 8, 1 / 16, 1 / 32),
        sampling_ratio=0,
        pooler_type="ROIAlignV2",
    )
    model.roi_heads.keypoint_head = L(MrcnnExtHeatmapKeypointHead)(
        input_shape=ShapeSpec(channels=channels, width=14, height=14),
        num_keypoints=num_keypoints,
        conv_dims=list(conv_dims),
        conv_norm=conv_norm,
        codec=L(GaussianCodec)(sigma=2.0),
        loss_normalizer="visible",
    )
    return model
