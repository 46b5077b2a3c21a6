# pose_Lite0_FPN_cpu.yaml as a LazyConfig. lazyconfig_train_net.py clips no gradients: the learning rate
# is half of the yaml config's.
import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detectron2.model_zoo import get_config
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler

from mrcnn_ext.data.lazy import use_training_dicts
from mrcnn_ext.evaluation import MrcnnExtCOCOEvaluator

from ..common.models.keypoint_head import add_keypoints
from ..common.models.mask_rcnn_timm_fpn import model
from ..common.models.small_heads import make_small

dataloader = get_config("common/data/coco_keypoint.py").dataloader
use_training_dicts(dataloader)
optimizer = get_config("common/optim.py").SGD
train = get_config("common/train.py").train

make_small(model, num_classes=1)
model.backbone.norm = "GN"  # see Base-MaskRCNN-Lite0-FPN.yaml
add_keypoints(model, 17, channels=64, conv_dims=[64] * 4, conv_norm="GN")

dataloader.train.dataset.min_keypoints = 0
dataloader.train.mapper.use_instance_mask = True
dataloader.train.mapper.image_format = "RGB"
dataloader.train.mapper.augmentations = [
    L(T.ResizeShortestEdge)(short_edge_length=(256, 288, 320), sample_style="choice", max_size=448),
    L(T.RandomFlip)(horizontal=True),
]
dataloader.train.total_batch_size = 4
dataloader.train.num_workers = 1
dataloader.test.mapper.augmentations = [
    L(T.ResizeShortestEdge)(short_edge_length=320, max_size=448),
]
dataloader.test.num_workers = 1
dataloader.evaluator = L(MrcnnExtCOCOEvaluator)(dataset_name="${..test.dataset.names}")

train.init_checkpoint = "timm://tf_efficientnet_lite0@package"
train.output_dir = "./output/coco_person_subset/pose_Lite0_FPN_cpu_lazy"
train.device = "cpu"
train.max_iter = 1800
train.eval_period = 600
train.checkpointer.period = 600
optimizer.lr = 0.01
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(values=[1.0, 0.1, 0.01], milestones=[1400, 1700, 1800]),
    warmup_length=200 / 1800,
    warmup_method="linear",
    warmup_factor=0.001,
)
