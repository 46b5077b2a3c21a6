# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Pictures of instances: predictions, ground truth, both side by side."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
from detectron2.data.detection_utils import read_image
from detectron2.structures import BoxMode, Instances, ROIMasks

from ..errors import DataError
from ..structures import DeferredMasks, instance_rles
from .colors import instance_color
from .labels import Label, write_labels
from .pose import LEAST_SCORE, draw_poses
from .primitives import View, rim, tint
from .sheets import captioned, contact_sheet

__all__ = ["draw_comparison", "draw_ground_truth", "draw_instances"]

_LEGIBLE = 640  # pixels of the longer side below which a picture is enlarged before drawing on it
_ALPHA, _ALPHA_WITH_POSE = 0.4, 0.22
_SMALL_LABELS = 0.7  # where faces and limbs should be seen
_LABEL_GROUND = (20, 20, 20)
_CAPTION_HEIGHT = 30  # pixels


def draw_instances(
    image: np.ndarray,
    instances: Instances,
    metadata=None,
    *,
    score_threshold: float = 0.0,
    scale: float | None = None,
) -> np.ndarray:
    """Draw predicted boxes, masks and keypoints, each instance in a colour of its own.

    Args:
        image: uint8 (H, W, 3), RGB.
        instances: with ``pred_boxes``, ``scores``, ``pred_classes`` and perhaps ``pred_masks``,
            ``pred_keypoints``, in the image's pixels; on any device. Masks may be a tensor (N, H, W)
            or Detectron2's BitMasks, PolygonMasks or ROIMasks, or a list of RLEs or polygons. With
            "track_ids", a list of numbers (None: of none), labels say them, and an id has its colour
            in all pictures.
        metadata: of the data set, for names of classes and keypoints; without it, classes are
            numbers.
        score_threshold: leave out what scores less.
        scale: enlarge by this before drawing; None enlarges small images so that text is legible.

    Returns:
        uint8 (scale · H, scale · W, 3), RGB.
    """
    instances = instances.to("cpu")
    boxes, scores = instances.pred_boxes.tensor.numpy(), instances.scores.numpy()
    # The largest first: what lies on it is drawn over it.
    order = [i for i in _largest_first(boxes) if scores[i] >= score_threshold]
    ids: list = instances.track_ids if instances.has("track_ids") else [None] * len(instances)
    labels = [
        f"{_class_name(metadata, int(instances.pred_classes[i]))}"
        f"{'' if ids[i] is None else f' #{ids[i]}'} {100 * scores[i]:.0f}%"
        for i in order
    ]
    numbers = [place if ids[i] is None else int(ids[i]) for place, i in enumerate(order)]
    masks = keypoints = None
    if instances.has("pred_masks"):
        all_masks = _unwrap_masks(instances)
        masks = (all_masks[i] for i in order)
    if instances.has("pred_keypoints"):
        points = instances.pred_keypoints
        keypoints = np.asarray(getattr(points, "tensor", points))[order]
    classes = instances.pred_classes.numpy()[order]
    return _draw(image, metadata, scale, boxes[order], labels, masks, keypoints, classes, numbers)


def draw_ground_truth(
    dataset_dict: dict,
    metadata=None,
    *,
    image: np.ndarray | None = None,
    scale: float | None = None,
) -> np.ndarray:
    """Draw the annotations of an image in Detectron2's standard dataset format.

    Args:
        dataset_dict: one record of a data set, with "annotations".
        metadata: as for :func:`draw_instances`.
        image: uint8 (H, W, 3), RGB; None reads ``dataset_dict["file_name"]``.
        scale: as for :func:`draw_instances`.

    Raises:
        DataError: the image cannot be read, or it or a mask has another size than the record says;
            names the file.
    """
    image = _checked_image(dataset_dict, image)
    annotations = dataset_dict.get("annotations", [])
    boxes = np.array(
        [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]
    ).reshape(-1, 4)
    order = _largest_first(boxes)
    annotations = [annotations[i] for i in order]
    labels = [
        _class_name(metadata, a["category_id"]) + (" (crowd)" if a.get("iscrowd") else "")
        for a in annotations
    ]
    masks = [a.get("segmentation") for a in annotations]
    keypoints = None
    if annotations and all("keypoints" in a for a in annotations):
        keypoints = np.array([a["keypoints"] for a in annotations]).reshape(len(labels), -1, 3)
    try:
        classes = np.array([a["category_id"] for a in annotations], dtype=int)
        return _draw(
            image, metadata, scale, boxes[order], labels, masks, keypoints, classes, truth=True
        )
    except ValueError as error:  # of a mask: its size, a damaged RLE
        raise DataError(f"image {dataset_dict.get('file_name')}: {error}") from error


def draw_comparison(
    dataset_dict: dict,
    instances: Instances,
    metadata=None,
    *,
    image: np.ndarray | None = None,
    score_threshold: float = 0.5,
) -> np.ndarray:
    """Ground truth on the left, prediction on the right, each with a caption.

    Args and errors as for :func:`draw_ground_truth` and :func:`draw_instances`.
    """
    image = _checked_image(dataset_dict, image)
    if tuple(instances.image_size) != image.shape[:2]:
        raise DataError(
            f"predictions for {dataset_dict.get('file_name')} are for an image of (height, width) "
            f"{tuple(instances.image_size)}, but it has {image.shape[:2]}."
        )
    truth = draw_ground_truth(dataset_dict, metadata, image=image)
    shown = draw_instances(image, instances, metadata, score_threshold=score_threshold)
    count = int((instances.scores >= score_threshold).sum())
    true_count = len(dataset_dict.get("annotations", []))
    objects = "object" if true_count == 1 else "objects"
    left = captioned(truth, f"ground truth: {true_count} {objects}", _CAPTION_HEIGHT)
    caption = f"prediction: {count} with score >= {score_threshold:g}"
    right = captioned(shown, caption, _CAPTION_HEIGHT)
    return contact_sheet([left, right], columns=2, gap=6)


def _draw(
    image: np.ndarray,
    metadata,
    scale: float | None,
    boxes: np.ndarray,
    labels: list[str],
    masks: Iterable | None,
    keypoints: np.ndarray | None,
    classes: np.ndarray,
    numbers: list[int] | None = None,
    truth: bool = False,
) -> np.ndarray:
    # Enlarged before drawing: lines and dots are as wide on any picture.
    view = View.whole(image.shape, scale or max(1.0, _LEGIBLE / max(image.shape[:2])))
    canvas = view.image(image)
    colors = [instance_color(number) for number in numbers or range(len(labels))]
    posed = [False] * len(labels)
    if keypoints is not None:
        posed = [bool((own[:, 2] >= LEAST_SCORE).any()) for own in keypoints]
    line = max(1, round(max(view.shape) / 800))
    for mask, color, has_pose in zip(masks or (), colors, posed):
        if mask is not None:
            patch = view.mask(mask)
            tint(canvas, patch, 255 * color, _ALPHA_WITH_POSE if has_pose else _ALPHA)
            tint(canvas, rim(patch, view.shape, line), 255 * color, 1.0)
    boxes = view.boxes(boxes)
    _draw_boxes(canvas, boxes, colors, 1 if any(posed) else line + 1)  # thin under limbs
    if keypoints is not None:
        points = np.array(keypoints, dtype=float)
        points[..., :2] = view.points(points[..., :2])
        draw_poses(canvas, points, classes, boxes, colors, metadata, truth=truth)
    size = max(13.0, np.sqrt(canvas.size / 3) / 65) * (_SMALL_LABELS if any(posed) else 1.0)
    shown = [Label(text, box, _LABEL_GROUND) for text, box in zip(labels, boxes)]
    return write_labels(canvas, shown, round(size), on_boxes=True)


def _draw_boxes(canvas: np.ndarray, boxes: np.ndarray, colors: list[np.ndarray], line: int) -> None:
    limits = canvas.shape[1] - 1, canvas.shape[0] - 1
    for box, color in zip(np.round(boxes), colors):
        (x0, y0), (x1, y1) = box.reshape(2, 2).clip(0, limits).astype(int).tolist()
        cv2.rectangle(canvas, (x0, y0), (x1, y1), (255 * color).tolist(), line)


def _unwrap_masks(instances: Instances):
    """``pred_masks`` as something that gives one mask for each index."""
    masks = instances._fields["pred_masks"]  # get() would make deferred masks dense
    if isinstance(masks, (DeferredMasks, ROIMasks)):  # not yet pasted into the image
        return instance_rles(instances)
    return getattr(masks, "polygons", getattr(masks, "tensor", masks))


def _class_name(metadata, index: int) -> str:
    names = metadata.get("thing_classes") if metadata is not None else None
    return str(names[index]) if names and 0 <= index < len(names) else str(index)


def _largest_first(boxes: np.ndarray) -> list[int]:
    return np.argsort(-np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), kind="stable").tolist()


def _checked_image(dataset_dict: dict, image: np.ndarray | None) -> np.ndarray:
    name = dataset_dict.get("file_name")
    if image is None:
        try:
            image = read_image(name, "RGB")
        except Exception as error:  # Pillow raises many kinds
            raise DataError(f"image {name} cannot be read: {error}") from error
    expected = dataset_dict.get("height"), dataset_dict.get("width")
    if None not in expected and image.shape[:2] != expected:
        raise DataError(
            f"image {name} has (height, width) {image.shape[:2]}, but its record says {expected}."
        )
    return image
