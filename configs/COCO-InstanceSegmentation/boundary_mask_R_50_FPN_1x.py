from ..common.models.mask_heads import boundary, use_mask_head
from .mask_rcnn_R_50_FPN_1x import dataloader, lr_multiplier, model, optimizer, train

use_mask_head(model, boundary())
