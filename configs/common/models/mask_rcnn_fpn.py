# Detectron2's Mask R-CNN with FPN, with this package's checks of the training data.
from detectron2.model_zoo import get_config

from mrcnn_ext.modeling.meta_arch import MrcnnExtRCNN

model = get_config("common/models/mask_rcnn_fpn.py").model
model._target_ = MrcnnExtRCNN
