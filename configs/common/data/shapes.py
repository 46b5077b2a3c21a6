# The built-in synthetic set. Its masks have holes, so they are bitmasks, not polygons. For another
# size: mrcnn_ext.data.shapes.configure_builtin_shapes(...) here, before the loaders.
import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from .coco import dataloader

dataloader.train.dataset.names = "mrcnn_ext_shapes_train"
dataloader.train.mapper.instance_mask_format = "bitmask"
dataloader.train.mapper.augmentations = [
    L(T.ResizeShortestEdge)(short_edge_length=(240, 272, 304), sample_style="choice", max_size=384),
    L(T.RandomFlip)(horizontal=True),
]
dataloader.train.total_batch_size = 2
dataloader.train.num_workers = 1
dataloader.test.dataset.names = "mrcnn_ext_shapes_val"
dataloader.test.mapper.augmentations = [
    L(T.ResizeShortestEdge)(short_edge_length=272, max_size=384),
]
dataloader.test.num_workers = 1
