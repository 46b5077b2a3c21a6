# As mask_rcnn_Lite0_FPN.py, with what there is for rare classes: docs/rare_classes.md. The classes of
# this set are about equally frequent, so that it changes little here: it shows where settings go.
from detectron2.config import LazyCall as L

from mrcnn_ext.data import build_train_loader
from mrcnn_ext.data.samplers import RepeatFactorSampling
from mrcnn_ext.modeling.class_weights import ClassWeights
from mrcnn_ext.modeling.mask_heads import MrcnnExtFCNMaskHead
from mrcnn_ext.modeling.roi_heads import ClassBalancedLoss, MrcnnExtOutputLayers

from .mask_rcnn_Lite0_FPN import dataloader, lr_multiplier, model, optimizer, train

NAMES = "${dataloader.train.dataset.names}"

dataloader.train._target_ = build_train_loader  # gives the records to the sampler
dataloader.train.sampler = L(RepeatFactorSampling)(threshold=0.5, dataset_names=NAMES)

model.roi_heads.box_predictor._target_ = MrcnnExtOutputLayers
model.roi_heads.box_predictor.classification_loss = L(ClassBalancedLoss)(
    num_classes=8,
    class_weights=L(ClassWeights)(
        num_classes=8, rule="inverse_sqrt", dataset_names=NAMES, loss="classification loss"
    ),
)
model.roi_heads.mask_head._target_ = MrcnnExtFCNMaskHead
model.roi_heads.mask_head.class_weights = L(ClassWeights)(
    num_classes=8,
    rule="inverse_sqrt",
    factors={"figure": 1.5},
    dataset_names=NAMES,
    loss="mask loss",
)
train.output_dir = "./output/shapes/mask_rcnn_Lite0_FPN_rare_classes_lazy"
