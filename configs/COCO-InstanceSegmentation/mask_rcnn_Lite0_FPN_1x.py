from detectron2.model_zoo import get_config

from ..common.data.coco import dataloader
from ..common.models.mask_rcnn_timm_fpn import model

optimizer = get_config("common/optim.py").SGD
lr_multiplier = get_config("common/coco_schedule.py").lr_multiplier_1x
train = get_config("common/train.py").train

model.backbone.bottom_up.model_name = "tf_efficientnet_lite0"
model.backbone.norm = "GN"  # see Base-MaskRCNN-Lite0-FPN.yaml
train.init_checkpoint = "timm://tf_efficientnet_lite0@package"
