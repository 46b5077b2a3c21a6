# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Pictures: instances, truth beside prediction, sheets of many, training curves.

All pictures are uint8 (H, W, 3) RGB arrays; ``cv2.imwrite(file, picture[:, :, ::-1])`` saves one.
"""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
from detectron2.data import Metadata
from detectron2.data.detection_utils import read_image
from detectron2.structures import BoxMode, Instances, ROIMasks
from detectron2.utils.visualizer import Visualizer
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from pycocotools import mask as mask_util

from ..errors import DataError
from .pose import LEAST_SCORE, draw_poses

__all__ = [
    "contact_sheet",
    "draw_comparison",
    "draw_ground_truth",
    "draw_instances",
    "plot_training_curves",
]

_LEGIBLE = 640  # pixels of the longer side below which a picture is enlarged before drawing on it
_ALPHA, _ALPHA_WITH_POSE = 0.4, 0.22
_SMALL_LABELS = 0.7  # where faces and limbs should be seen
_CAPTION_HEIGHT = 30
_LIGHT = 245


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
            or Detectron2's BitMasks, PolygonMasks or ROIMasks, or a list of RLEs or polygons.
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
    labels = [
        f"{_class_name(metadata, int(instances.pred_classes[i]))} {100 * scores[i]:.0f}%"
        for i in order
    ]
    masks = keypoints = None
    if instances.has("pred_masks"):
        all_masks = _unwrap_masks(instances)
        masks = (all_masks[i] for i in order)
    if instances.has("pred_keypoints"):
        points = instances.pred_keypoints
        keypoints = np.asarray(getattr(points, "tensor", points))[order]
    classes = instances.pred_classes.numpy()[order]
    return _draw(image, metadata, scale, boxes[order], labels, masks, keypoints, classes)


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
    except ValueError as error:  # DataError of a mask's size; pycocotools' of a broken RLE
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
    left = _with_caption(truth, f"ground truth: {true_count} {objects}")
    right = _with_caption(shown, f"prediction: {count} with score >= {score_threshold:g}")
    separator = np.full((left.shape[0], 6, 3), _LIGHT, dtype=np.uint8)
    return np.concatenate([left, separator, right], axis=1)


def contact_sheet(images: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Put pictures of any sizes side by side on a light ground.

    Raises:
        ValueError: no pictures, or fewer than one column.
    """
    if not images or columns < 1:
        raise ValueError(f"a sheet of {len(images)} pictures in {columns} columns")
    gap = 8
    columns = min(columns, len(images))
    width = max(image.shape[1] for image in images)
    rows = []
    for start in range(0, len(images), columns):
        row = images[start : start + columns]
        height = max(image.shape[0] for image in row)
        canvas = np.full((height + gap, columns * (width + gap), 3), _LIGHT, dtype=np.uint8)
        for column, image in enumerate(row):
            left = column * (width + gap)
            canvas[: image.shape[0], left : left + image.shape[1]] = image
        rows.append(canvas)
    return np.concatenate(rows)[:-gap, :-gap]


def plot_training_curves(
    metrics_json: str | os.PathLike, out_png: str | os.PathLike
) -> str | os.PathLike:
    """Plot losses and AP over the iterations from the ``metrics.json`` of a Detectron2 run.

    A line that a running training has only half written is left out; of an iteration that was run
    again after ``--resume`` the last values count.

    Returns:
        ``out_png``.

    Raises:
        DataError: the file is missing or has no losses.
    """
    out_file = Path(out_png)
    losses, scores = _read_metrics(Path(metrics_json))
    figure = Figure(figsize=(13, 4.2) if scores else (7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2 if scores else 1, squeeze=False, sharex=True)[0]
    for name, points in sorted(losses.items(), key=lambda item: item[0] != "total_loss"):
        wide = name == "total_loss"
        axes[0].plot(*_columns(points), label=name, lw=2 if wide else 1.2, zorder=3 if wide else 2)
    axes[0].set(
        title="training losses", xlabel="iteration", ylabel="loss (log scale)", yscale="log"
    )
    if scores:
        for name, points in sorted(scores.items()):
            axes[1].plot(*_columns(points), marker="o", ms=4, label=_score_label(name))
        axes[1].set(title="evaluation", xlabel="iteration", ylabel="%", ylim=(0, None))
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.0))  # beside the curves
    out_file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(str(out_file), dpi=110)
    return out_png


# ----------------------------------------------------------------------------------------- helpers


def _draw(
    image: np.ndarray,
    metadata,
    scale: float | None,
    boxes: np.ndarray,
    labels: list[str],
    masks: Iterable | None,
    keypoints: np.ndarray | None,
    classes: np.ndarray,
    truth: bool = False,
) -> np.ndarray:
    if scale is None:
        scale = max(1.0, _LEGIBLE / max(image.shape[:2]))
    # Enlarged here, not by Visualizer, whose lines and dots would grow with the image.
    size = image.shape[:2]
    height, width = (max(1, round(side * scale)) for side in size)
    kind = cv2.INTER_LINEAR if scale > 1 else cv2.INTER_AREA
    canvas = (
        np.array(image) if scale == 1 else cv2.resize(image, (width, height), interpolation=kind)
    )
    colors = [_color(index) for index in range(len(labels))]
    posed = [False] * len(labels)
    if keypoints is not None:
        posed = [bool((own[:, 2] >= LEAST_SCORE).any()) for own in keypoints]
    for mask, color, has_pose in zip(masks or (), colors, posed):
        if mask is not None:
            alpha = _ALPHA_WITH_POSE if has_pose else _ALPHA
            _blend(canvas, _to_array(mask, size), color, alpha)
    boxes = np.asarray(boxes) * scale
    if any(posed):  # thinner than Visualizer's, and under the limbs
        _draw_boxes(canvas, boxes, colors)
    if keypoints is not None:
        points = np.asarray(keypoints, dtype=float) * (scale, scale, 1.0)
        draw_poses(canvas, points, classes, boxes, colors, metadata, truth=truth)
    visualizer = Visualizer(canvas, metadata or Metadata())
    if not any(posed):
        visualizer.overlay_instances(boxes=boxes, assigned_colors=colors)
    _write_labels(visualizer, boxes, labels, _SMALL_LABELS if any(posed) else 1.0)
    return np.ascontiguousarray(visualizer.get_output().get_image()[:, :, :3])


def _draw_boxes(canvas: np.ndarray, boxes: np.ndarray, colors: list[np.ndarray]) -> None:
    for (x0, y0, x1, y1), color in zip(np.round(boxes).astype(int).tolist(), colors):
        cv2.rectangle(canvas, (x0, y0), (x1, y1), (255 * color).tolist(), 1)


def _write_labels(
    visualizer: Visualizer, boxes: np.ndarray, labels: list[str], size: float
) -> None:
    """Labels of one size; Visualizer's own are half as large for small objects, and cut at edges."""
    height, width = visualizer.output.height, visualizer.output.width
    font = size * max(10.0, math.sqrt(height * width) / 90)  # points, of 100 / 72 pixels
    line, character = 1.9 * font, 0.82 * font  # pixels
    for (x0, y0, _, y1), label in zip(boxes.tolist(), labels):
        if y1 - y0 < 2 * line:  # would cover a small object: under it, or else over it
            y0 = y1 + 2 if y1 + 2 + line <= height else y0 - 2 - line
        x = max(0.0, min(x0, width - character * len(label)))
        y = max(3.0, min(y0, height - line))  # the text's ground begins a little above it
        visualizer.draw_text(label, (x, y), font_size=font, color="w", horizontal_alignment="left")


def _blend(canvas: np.ndarray, mask: np.ndarray, color: np.ndarray, alpha: float) -> None:
    """Tint the mask's pixels and no others; Visualizer's polygons would fill holes."""
    height, width = canvas.shape[:2]
    if mask.shape != (height, width):
        mask = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)
    line = 2 * max(1, round(max(height, width) / 800)) + 1
    edge = (mask > cv2.erode(mask, np.ones((line, line), np.uint8))).astype(bool)
    inside = mask.astype(bool)
    canvas[inside] = (1 - alpha) * canvas[inside] + alpha * 255 * color
    canvas[edge] = 255 * color


def _unwrap_masks(instances: Instances):
    """``pred_masks`` as something that gives one mask for each index."""
    masks = instances.pred_masks
    if isinstance(masks, ROIMasks):  # not yet pasted into the image
        masks = masks.to_bitmasks(instances.pred_boxes, *instances.image_size)
    return getattr(masks, "polygons", getattr(masks, "tensor", masks))


def _to_array(mask, size: tuple[int, ...]) -> np.ndarray:
    """One mask in any of Detectron2's forms as uint8 (H, W) of zeros and ones.

    Raises:
        DataError: its size is not the image's.
    """
    if isinstance(mask, (list, tuple)):
        polygons = [p for p in (np.asarray(p, dtype=float).ravel() for p in mask) if p.size >= 6]
        if not polygons:
            return np.zeros(size, dtype=np.uint8)
        mask = mask_util.merge(mask_util.frPyObjects(polygons, *size))
    elif isinstance(mask, dict) and isinstance(mask["counts"], list):
        mask = mask_util.frPyObjects(mask, *mask["size"])
    array = mask_util.decode(mask) if isinstance(mask, dict) else np.asarray(mask)
    if array.shape != tuple(size):
        raise DataError(f"a mask has (height, width) {array.shape}, its image {tuple(size)}.")
    return np.ascontiguousarray(array > 0.5, dtype=np.uint8)


def _class_name(metadata, index: int) -> str:
    names = metadata.get("thing_classes") if metadata is not None else None
    return str(names[index]) if names and 0 <= index < len(names) else str(index)


def _largest_first(boxes: np.ndarray) -> list[int]:
    return np.argsort(-np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), kind="stable").tolist()


def _color(index: int) -> np.ndarray:
    """Hues a golden angle apart: neighbours in the list are never alike, and it is reproducible."""
    return hsv_to_rgb((index * 0.61803 % 1.0, 0.85 if index % 2 else 0.65, 1.0))


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


def _with_caption(image: np.ndarray, text: str) -> np.ndarray:
    width = image.shape[1]
    strip = np.full((_CAPTION_HEIGHT, width, 3), _LIGHT, dtype=np.uint8)
    font = cv2.FONT_HERSHEY_SIMPLEX
    text_width = cv2.getTextSize(text, font, 0.6, 1)[0][0]
    size = 0.6 * min(1.0, (width - 16) / text_width)  # of upright images smaller, not cut off
    cv2.putText(strip, text, (8, 21), font, size, (30, 30, 30), 1, cv2.LINE_AA)
    return np.concatenate([strip, image])


def _score_label(name: str) -> str:
    """ "segm/AP" as "mask AP"; with several test sets, the set's name comes first."""
    *dataset, task, metric = name.split("/")
    task = {"bbox": "box", "segm": "mask"}.get(task, task)
    return " ".join([*dataset, task, metric])


def _read_metrics(file: Path) -> tuple[dict[str, dict], dict[str, dict]]:
    """Losses and APs, each as name -> {iteration: value}."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"no training curves: {file} cannot be read ({error.strerror}).") from error
    losses: dict[str, dict] = defaultdict(dict)
    scores: dict[str, dict] = defaultdict(dict)
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        for key, value in entry.items():
            if "iteration" not in entry or not isinstance(value, (int, float)):
                continue
            if "loss" in key and "/" not in key:
                losses[key][entry["iteration"]] = value
            elif key.endswith(("/AP", "/AP50", "/AP75")) and math.isfinite(value):
                scores[key][entry["iteration"]] = value
    if not losses:
        raise DataError(f"no training curves: {file} holds no losses.")
    return losses, scores


def _columns(points: dict) -> tuple[list, list]:
    iterations = sorted(points)
    return iterations, [points[i] for i in iterations]
