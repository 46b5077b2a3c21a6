# Detectron2's Mask R-CNN with FPN, with this package's checks of the training data and its RoIAlign.
from detectron2.model_zoo import get_config

from mrcnn_ext.modeling.meta_arch import MrcnnExtRCNN
from mrcnn_ext.modeling.poolers import FusedROIPooler
from mrcnn_ext.modeling.roi_heads import MrcnnExtStandardROIHeads

model = get_config("common/models/mask_rcnn_fpn.py").model
model._target_ = MrcnnExtRCNN
model.roi_heads._target_ = MrcnnExtStandardROIHeads
model.roi_heads.box_pooler._target_ = FusedROIPooler
model.roi_heads.mask_pooler._target_ = FusedROIPooler
