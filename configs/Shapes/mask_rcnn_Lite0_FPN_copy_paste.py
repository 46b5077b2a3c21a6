# As mask_rcnn_Lite0_FPN.py, with large-scale jitter and Simple Copy-Paste: docs/augmentation.md.
import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from mrcnn_ext.data import TrainingMapper, build_train_loader
from mrcnn_ext.data.augmentation import CopyPaste, ScaleJitter

from .mask_rcnn_Lite0_FPN import dataloader, lr_multiplier, model, optimizer, train

dataloader.train._target_ = build_train_loader  # gives the data set to the mapper
dataloader.train.mapper._target_ = TrainingMapper
dataloader.train.mapper.augmentations = [
    L(ScaleJitter)(size=320, scale=(0.5, 1.5)),
    L(T.RandomFlip)(horizontal=True),
    L(CopyPaste)(scale=None, min_area_left=100),
]
dataloader.train.mapper.min_area_left = 16
train.output_dir = "./output/shapes/mask_rcnn_Lite0_FPN_copy_paste_lazy"
