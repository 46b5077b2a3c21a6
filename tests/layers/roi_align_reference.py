# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""RoIAlign as its definition says, in float64 NumPy: sample by sample, no weights merged."""

from __future__ import annotations

import math

import numpy as np


def level_of(box, num_levels: int, min_level: int, box_size: float = 224, level: int = 4) -> int:
    """FPN's equation 1; -1 for a box without an area."""
    area = (box[2] - box[0]) * (box[3] - box[1])
    if not area >= 0:
        return -1
    size = math.sqrt(area) / box_size + 1e-8
    return int(
        np.clip(math.floor(level + math.log2(size)), min_level, min_level + num_levels - 1)
    ) - (min_level)


def bilinear(image: np.ndarray, y: float, x: float) -> np.ndarray:
    """Value of a (C, H, W) image at a point; 0 more than a pixel outside, border values up to it."""
    height, width = image.shape[1:]
    if y < -1 or y > height or x < -1 or x > width:
        return np.zeros(image.shape[0])
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    top = image[:, y0, x0] * (1 - (x - x0)) + image[:, y0, x1] * (x - x0)
    bottom = image[:, y1, x0] * (1 - (x - x0)) + image[:, y1, x1] * (x - x0)
    return top * (1 - (y - y0)) + bottom * (y - y0)


def roi_align(image, box, scale, output_size, sampling_ratio, aligned) -> np.ndarray:
    """(C, h, w) of one box on one (C, H, W) image."""
    image = np.asarray(image, np.float64)
    x0, y0, x1, y1 = (float(v) * scale - (0.5 if aligned else 0) for v in box)
    height, width = y1 - y0, x1 - x0
    if not aligned:
        height, width = max(height, 1.0), max(width, 1.0)
    rows, columns = output_size
    grid_y = sampling_ratio or math.ceil(height / rows)
    grid_x = sampling_ratio or math.ceil(width / columns)
    output = np.zeros((image.shape[0], rows, columns))
    for i in range(rows):
        for j in range(columns):
            for a in range(grid_y):
                for b in range(grid_x):
                    y = y0 + (i + (a + 0.5) / grid_y) * height / rows
                    x = x0 + (j + (b + 0.5) / grid_x) * width / columns
                    output[:, i, j] += bilinear(image, y, x)
    return output / max(grid_y * grid_x, 1)


def roi_align_pyramid(features, rois, scales, output_size, sampling_ratio=0, aligned=True):
    """(R, C, h, w) float64; arguments as those of ``mrcnn_ext.layers.roi_align_pyramid``."""
    results = []
    min_level = round(-math.log2(scales[0]))
    for roi in np.asarray(rois, np.float64):
        level = level_of(roi[1:], len(features), min_level) if len(features) > 1 else 0
        shape = (features[0].shape[1], *output_size)
        if level < 0 or not np.isfinite(roi).all():
            results.append(np.zeros(shape))
            continue
        image = np.asarray(features[level][int(roi[0])].double())
        results.append(
            roi_align(image, roi[1:], scales[level], output_size, sampling_ratio, aligned)
        )
    return np.stack(results) if results else np.zeros((0, features[0].shape[1], *output_size))
