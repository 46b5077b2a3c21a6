# Detectron2's COCO loaders, images in RGB (timm weights are RGB).
from detectron2.model_zoo import get_config

from mrcnn_ext.data.lazy import use_training_dicts

dataloader = get_config("common/data/coco.py").dataloader
dataloader.train.mapper.image_format = "RGB"
use_training_dicts(dataloader)  # says before the first step what does not fit together
