# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""What an exported model computes: from one image to boxes, masks and keypoints."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["detect", "resize_in_graph"]

# Fields of Instances -> outputs, in this order; boxes, scores and classes come before them.
_FIELDS = {
    "pred_masks": "masks",
    "mask_scores": "mask_scores",
    "pred_keypoints": "keypoints",
    "pred_keypoint_heatmaps": "keypoint_maps",
}
_SWITCHES = ("mask_on", "keypoint_on")


def detect(model: nn.Module, image: Tensor, *, maps: bool = False) -> dict[str, Tensor]:
    """Run a model on one image, in steps that hold for any number of detections once they are traced.

    The mask and keypoint heads run apart from the box head: where it found nothing they get one box,
    whose results are dropped. Some runtimes refuse convolutions and reshapes of nothing.

    Args:
        model: GeneralizedRCNN in evaluation mode.
        image: (3, H, W) float32, 0 to 255, resized, in the model's order of channels.
        maps: give "keypoint_maps" in place of "keypoints".

    Returns:
        outputs by name, as :func:`mrcnn_ext.deploy.export_onnx` describes them.
    """
    images = _preprocessed(model, image)
    features = model.backbone(images.tensor)
    proposals, _ = model.proposal_generator(images, features, None)
    heads = model.roi_heads
    with _boxes_only(heads):
        (found,), _ = heads(images, features, proposals, None)
    boxes, scores, classes = found.pred_boxes.tensor, found.scores, found.pred_classes
    outputs = {"boxes": boxes, "scores": scores, "classes": classes}
    if not any(getattr(heads, name, False) for name in _SWITCHES):
        return outputs
    number = torch.as_tensor(scores.shape[0])  # a tensor already while this is traced
    at_least_one = number.clamp(min=1)
    box = boxes.new_tensor([[0.0, 0.0, 32.0, 32.0]])
    some = Instances(found.image_size)
    some.pred_boxes = Boxes(torch.cat([boxes, box])[:at_least_one])
    some.scores = torch.cat([scores, scores.new_zeros(1)])[:at_least_one]
    some.pred_classes = torch.cat([classes, classes.new_zeros(1)])[:at_least_one]
    (some,) = heads.forward_with_given_boxes(features, [some])
    rows = torch.arange(number)  # OpenVINO keeps one row of a slice that ends at 0
    outputs["scores"] = some.scores[rows]  # the quality of masks or keypoints may be in them now
    for field, name in _FIELDS.items():
        if some.has(field) and name != ("keypoints" if maps else "keypoint_maps"):
            outputs[name] = some.get(field)[rows]
    return outputs


def _preprocessed(model: nn.Module, image: Tensor) -> ImageList:
    """The model's ``preprocess_image``, in operators that runtimes compute alike.

    Detectron2 rounds sizes up by a division and a product, which OpenVINO (2026.4) cancels.
    """
    stock = type(model).preprocess_image is GeneralizedRCNN.preprocess_image
    if not stock or getattr(model.backbone, "padding_constraints", {}).get("square_size"):
        return model.preprocess_image([{"image": image}])
    divisor = max(int(model.backbone.size_divisibility), 1)
    size = torch.stack([torch.as_tensor(side) for side in image.shape[-2:]])
    below, beside = ((divisor - size % divisor) % divisor).unbind()
    pixels = (image - model.pixel_mean) / model.pixel_std
    padded = F.pad(pixels, (0, beside, 0, below))  # type: ignore[arg-type]  # traced, too
    return ImageList(padded[None], [size if torch.jit.is_tracing() else tuple(image.shape[-2:])])


@contextmanager
def _boxes_only(heads: nn.Module) -> Iterator[None]:
    before = {name: getattr(heads, name) for name in _SWITCHES if hasattr(heads, name)}
    for name in before:
        setattr(heads, name, False)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(heads, name, value)


def resize_in_graph(image: Tensor, min_size: int, max_size: int, *, rgb: bool) -> Tensor:
    """Detectron2's ResizeShortestEdge with Pillow's filter, of a size that the graph works out.

    Args:
        image: (H, W, 3) uint8, BGR.
        min_size, max_size: as for ResizeShortestEdge; ``min_size`` 0: the image keeps its size.
        rgb: the model takes RGB.

    Returns:
        (3, h, w) float32 of whole numbers.
    """
    pixels = image.permute(2, 0, 1).to(torch.float32)
    if rgb:
        pixels = torch.cat([pixels[2:3], pixels[1:2], pixels[0:1]])
    if not min_size:
        return pixels
    sides = torch.stack([torch.as_tensor(side) for side in image.shape[:2]]).to(torch.float64)
    # Divided as Detectron2 divides: products with a reciprocal may round to another pixel.
    smallest, largest = (sides.new_tensor([float(side)]) for side in (min_size, max_size))
    sides = sides * (smallest / sides.min())
    sides = sides * (largest / sides.max()).clamp(max=1)
    height, width = (sides + 0.5).floor().to(torch.int64).unbind()
    resized = F.interpolate(
        pixels[None],
        size=(height, width),  # type: ignore[arg-type]  # tensors, so that they are traced
        mode="bilinear",
        antialias=True,
        align_corners=False,
    )
    return resized[0].round().clamp(0, 255)
