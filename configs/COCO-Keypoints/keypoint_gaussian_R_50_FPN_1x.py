# keypoint_gaussian_R_50_FPN_1x.yaml as a LazyConfig: Detectron2's Keypoint R-CNN with this package's
# RoIAlign, checks and heatmap head. Another codec is another line.
from detectron2.config import LazyCall as L
from detectron2.model_zoo import get_config

from mrcnn_ext.data.lazy import use_training_dicts
from mrcnn_ext.modeling.keypoint_codecs import GaussianCodec
from mrcnn_ext.modeling.keypoint_heads import MrcnnExtHeatmapKeypointHead
from mrcnn_ext.modeling.meta_arch import MrcnnExtRCNN
from mrcnn_ext.modeling.poolers import FusedROIPooler
from mrcnn_ext.modeling.roi_heads import MrcnnExtStandardROIHeads

model = get_config("common/models/keypoint_rcnn_fpn.py").model
model._target_ = MrcnnExtRCNN
model.roi_heads._target_ = MrcnnExtStandardROIHeads
model.roi_heads.box_pooler._target_ = FusedROIPooler
model.roi_heads.keypoint_pooler._target_ = FusedROIPooler
model.roi_heads.keypoint_head._target_ = MrcnnExtHeatmapKeypointHead
model.roi_heads.keypoint_head.codec = L(GaussianCodec)(sigma=2.0)
model.backbone.bottom_up.freeze_at = 2

dataloader = get_config("common/data/coco_keypoint.py").dataloader
use_training_dicts(dataloader)
optimizer = get_config("common/optim.py").SGD
lr_multiplier = get_config("common/coco_schedule.py").lr_multiplier_1x
train = get_config("common/train.py").train
train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
