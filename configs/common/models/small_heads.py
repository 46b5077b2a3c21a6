# Narrow heads and few proposals, for small images and CPUs; as Base-MaskRCNN-Lite0-FPN-small.yaml.
from detectron2.layers import ShapeSpec


def make_small(model, num_classes, channels=64):
    """Shrink a Mask R-CNN FPN LazyConfig in place: ``channels`` wide, 150 proposals at test time."""
    model.backbone.out_channels = channels
    rpn, heads = model.proposal_generator, model.roi_heads
    rpn.head.in_channels = channels
    rpn.batch_size_per_image = 128
    rpn.pre_nms_topk = (500, 300)
    rpn.post_nms_topk = (300, 150)
    heads.num_classes = num_classes
    heads.batch_size_per_image = 64
    heads.box_head.input_shape = ShapeSpec(channels=channels, width=7, height=7)
    heads.box_head.fc_dims = [512, 512]
    heads.box_predictor.input_shape = ShapeSpec(channels=512)
    heads.mask_head.input_shape = ShapeSpec(channels=channels, width=14, height=14)
    heads.mask_head.conv_dims = [channels] * 5
    heads.mask_head.conv_norm = "GN"
    return model
