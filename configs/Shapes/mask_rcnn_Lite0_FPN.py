# The demo's model and schedule as a LazyConfig, for lazyconfig_train_net.py, which clips no gradients:
# the learning rate is half of the yaml config's.
from detectron2.config import LazyCall as L
from detectron2.model_zoo import get_config
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler

from ..common.data.shapes import dataloader
from ..common.models.mask_rcnn_timm_fpn import model
from ..common.models.small_heads import make_small

optimizer = get_config("common/optim.py").SGD
train = get_config("common/train.py").train

make_small(model, num_classes=8)
model.proposal_generator.anchor_generator.sizes = [[16], [32], [64], [128], [256]]
model.backbone.norm = "GN"  # see Base-MaskRCNN-Lite0-FPN.yaml

train.init_checkpoint = "timm://tf_efficientnet_lite0@package"
train.output_dir = "./output/shapes/mask_rcnn_Lite0_FPN_lazy"
train.device = "cpu"
train.max_iter = 1500
train.eval_period = 500
train.checkpointer.period = 500
optimizer.lr = 0.015
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(values=[1.0, 0.1], milestones=[1200, 1500]),
    warmup_length=100 / 1500,
    warmup_method="linear",
    warmup_factor=0.001,
)
