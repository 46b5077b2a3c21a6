# Detectron2's COCO loaders, images in RGB (timm weights are RGB).
from detectron2.model_zoo import get_config

from mrcnn_ext.data.lazy import training_dicts

dataloader = get_config("common/data/coco.py").dataloader
dataloader.train.mapper.image_format = "RGB"
# Says before the first step what does not fit: classes of both data sets, and of the model.
dataloader.train.dataset._target_ = training_dicts
dataloader.train.dataset.test_names = "${...test.dataset.names}"
dataloader.train.dataset.num_classes = "${oc.select:model.roi_heads.num_classes,null}"
