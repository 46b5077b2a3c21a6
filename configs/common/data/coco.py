# Detectron2's COCO loaders, images in RGB (timm weights are RGB).
from detectron2.model_zoo import get_config

dataloader = get_config("common/data/coco.py").dataloader
dataloader.train.mapper.image_format = "RGB"
