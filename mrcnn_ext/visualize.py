# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Pictures: instances, truth beside prediction, sheets of many, training curves.

All pictures are uint8 (H, W, 3) RGB arrays; ``cv2.imwrite(file, picture[:, :, ::-1])`` saves one.
"""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from detectron2.data.detection_utils import read_image
from detectron2.structures import BoxMode, Instances
from detectron2.utils.visualizer import Visualizer
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure

from .errors import DataError

__all__ = [
    "contact_sheet",
    "draw_comparison",
    "draw_ground_truth",
    "draw_instances",
    "plot_training_curves",
]

_LEGIBLE = 640  # pixels of the longer side below which a picture is enlarged before drawing on it
_ALPHA = 0.4
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
            ``pred_keypoints``, in the image's pixels; on any device.
        metadata: of the data set, for names of classes and keypoints; without it, classes are
            numbers.
        score_threshold: leave out what scores less.
        scale: enlarge by this before drawing; None enlarges small images so that text is legible.

    Returns:
        uint8 (scale · H, scale · W, 3), RGB.
    """
    instances = instances.to("cpu")
    instances = instances[instances.scores >= score_threshold]
    # The largest first: what lies on it is drawn over it.
    instances = instances[(-instances.pred_boxes.area()).argsort(stable=True)]
    names = metadata.get("thing_classes") if metadata is not None else None
    labels = [
        f"{names[c] if names else c} {100 * s:.0f}%"
        for c, s in zip(instances.pred_classes.tolist(), instances.scores.tolist())
    ]
    masks = np.asarray(instances.pred_masks) if instances.has("pred_masks") else None
    keypoints = instances.pred_keypoints if instances.has("pred_keypoints") else None
    return _draw(image, metadata, scale, instances.pred_boxes.tensor, labels, masks, keypoints)


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
        DataError: the image cannot be read, or has another size than the record says.
    """
    if image is None:
        image = _read(dataset_dict)
    annotations = dataset_dict.get("annotations", [])
    boxes = np.array(
        [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]
    ).reshape(-1, 4)
    order = np.argsort(-np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), kind="stable")
    annotations = [annotations[i] for i in order]
    names = metadata.get("thing_classes") if metadata is not None else None
    labels = [
        str(names[a["category_id"]] if names else a["category_id"])
        + (" (crowd)" if a.get("iscrowd") else "")
        for a in annotations
    ]
    masks = None
    if annotations and all("segmentation" in a for a in annotations):
        masks = [a["segmentation"] for a in annotations]
    keypoints = None
    if annotations and all("keypoints" in a for a in annotations):
        keypoints = np.array([a["keypoints"] for a in annotations]).reshape(len(labels), -1, 3)
    return _draw(image, metadata, scale, boxes[order], labels, masks, keypoints)


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
    if image is None:
        image = _read(dataset_dict)
    if tuple(instances.image_size) != image.shape[:2]:
        raise DataError(
            f"predictions for {dataset_dict.get('file_name')} are for an image of (height, width) "
            f"{tuple(instances.image_size)}, but it has {image.shape[:2]}."
        )
    truth = draw_ground_truth(dataset_dict, metadata, image=image)
    shown = draw_instances(image, instances, metadata, score_threshold=score_threshold)
    count = int((instances.scores >= score_threshold).sum())
    true_count = len(dataset_dict.get("annotations", []))
    left = _with_caption(truth, f"ground truth: {true_count}")
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
    losses, scores = _read_metrics(Path(metrics_json))
    figure = Figure(figsize=(11, 4.2) if scores else (6, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2 if scores else 1, squeeze=False)[0]
    for name, points in sorted(losses.items(), key=lambda item: item[0] != "total_loss"):
        wide = name == "total_loss"
        axes[0].plot(*_columns(points), label=name, lw=2 if wide else 1.2, zorder=3 if wide else 2)
    axes[0].set(title="training losses", xlabel="iteration", yscale="log")
    if scores:
        for name, points in sorted(scores.items()):
            task, metric = name.split("/")
            task = {"bbox": "box", "segm": "mask"}.get(task, task)
            axes[1].plot(*_columns(points), marker="o", ms=4, label=f"{task} {metric}")
        axes[1].set(title="evaluation", xlabel="iteration", ylabel="%", ylim=(0, None))
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.savefig(str(out_png), dpi=110)
    return out_png


# ----------------------------------------------------------------------------------------- helpers


def _draw(image, metadata, scale, boxes, labels, masks, keypoints) -> np.ndarray:
    if scale is None:
        scale = max(1.0, _LEGIBLE / max(image.shape[:2]))
    visualizer = Visualizer(np.ascontiguousarray(image), metadata, scale=scale)
    visualizer.overlay_instances(
        boxes=np.asarray(boxes),
        labels=labels,
        masks=masks,
        keypoints=None if keypoints is None else np.asarray(keypoints),
        assigned_colors=[_color(index) for index in range(len(labels))],
        alpha=_ALPHA,
    )
    return np.ascontiguousarray(visualizer.get_output().get_image()[:, :, :3])


def _color(index: int) -> np.ndarray:
    """Hues a golden angle apart: neighbours in the list are never alike, and it is reproducible."""
    return hsv_to_rgb((index * 0.61803 % 1.0, 0.85 if index % 2 else 0.65, 1.0))


def _read(dataset_dict: dict) -> np.ndarray:
    name = dataset_dict.get("file_name")
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
    strip = np.full((_CAPTION_HEIGHT, image.shape[1], 3), _LIGHT, dtype=np.uint8)
    cv2.putText(
        strip, text, (8, 21), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (30, 30, 30), 1, cv2.LINE_AA
    )  # fmt: skip
    return np.concatenate([strip, image])


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
