# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Pictures of training samples."""

from __future__ import annotations

import numpy as np
from detectron2.structures import BoxMode

from ...visualization import draw_ground_truth
from ..image_file import ImageReader

__all__ = ["as_rgb", "draw_sample"]


def draw_sample(
    sample: dict,
    metadata=None,
    *,
    image_format: str = "BGR",
    side: int = 480,
    reader: ImageReader | None = None,
):
    """Draw a sample of a training loader: picture, masks, boxes and keypoints as the model gets them.

    Args:
        sample: "image" (C, H, W) and perhaps "instances".
        metadata: of the data set, for names of classes and skeletons.
        image_format: order of the channels.
        side: of the longer side in pixels.
        reader: of the loader's mapper; where it chooses bands, it says how they are shown.

    Returns:
        uint8 (h, w, 3), RGB.
    """
    pixels = sample["image"].numpy()
    if reader is not None and reader.by_band:
        image = reader.shown(pixels.transpose(1, 2, 0))
    else:
        image = as_rgb(pixels, image_format)
    record = {
        "file_name": sample.get("file_name"),
        "height": image.shape[0],
        "width": image.shape[1],
        "annotations": _annotations(sample.get("instances")),
    }
    scale = side / max(image.shape[:2])
    return draw_ground_truth(record, metadata, image=image, scale=scale)


def as_rgb(image: np.ndarray, image_format: str) -> np.ndarray:
    """uint8 (H, W, 3) to look at.

    Args:
        image: (C, H, W); of more than three channels the first three are shown, values that do not
            fit into a byte are stretched.
        image_format: "BGR" or another.
    """
    image = image.transpose(1, 2, 0)
    if image_format == "BGR":
        image = image[..., ::-1]
    elif image.shape[2] < 3:
        image = np.repeat(image[..., :1], 3, axis=2)
    image = image[..., :3]
    if image.dtype != np.uint8:
        low, high = float(image.min()), float(image.max())
        if low < 0 or high > 255:
            image = (image.astype(float) - low) * (255 / max(high - low, 1e-9))
        image = image.clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(image)


def _annotations(instances) -> list[dict]:
    if instances is None:
        return []
    boxes = instances.gt_boxes.tensor.tolist()
    out: list[dict] = [
        {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": int(label)}
        for box, label in zip(boxes, instances.gt_classes)
    ]
    if instances.has("gt_masks"):
        masks = instances.gt_masks
        each = getattr(masks, "polygons", getattr(masks, "tensor", ()))
        for annotation, mask in zip(out, each):
            annotation["segmentation"] = mask if isinstance(mask, list) else mask.numpy()
    if instances.has("gt_keypoints"):
        for annotation, points in zip(out, instances.gt_keypoints.tensor.numpy()):
            annotation["keypoints"] = points.reshape(-1)
    return out
