from detectron2.model_zoo import get_config

from mrcnn_ext.data.lazy import use_training_dicts

from ..common.models.mask_rcnn_fpn import model

dataloader = get_config("common/data/coco.py").dataloader  # BGR, as these weights want it
use_training_dicts(dataloader)
optimizer = get_config("common/optim.py").SGD
lr_multiplier = get_config("common/coco_schedule.py").lr_multiplier_1x
train = get_config("common/train.py").train

model.backbone.bottom_up.freeze_at = 2
train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
