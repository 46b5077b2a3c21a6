# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Made-up detections: the truth, moved, renamed, doubled and left out, with a fixed seed."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as mask_util

__all__ = ["made_up_results"]


def made_up_results(
    annotations: str | Path,
    *,
    seed: int = 0,
    jitter: float = 0.06,
    renamed: float = 0.12,
    doubled: float = 0.1,
    left_out: float = 0.1,
    invented: float = 1.0,
    boxes_only: bool = False,
) -> list[dict]:
    """COCO results that look like a detector's, for tests and for the picture in docs/report.md.

    Args:
        annotations: COCO json with masks as RLE.
        jitter: standard deviation of shift and scale, as a part of an object's size.
        renamed, doubled, left_out: parts of the objects with which this happens.
        invented: ellipses where nothing is, in the mean for each image.
    """
    rng = np.random.default_rng(seed)
    content = json.loads(Path(annotations).read_text(encoding="utf-8"))
    images = {image["id"]: image for image in content["images"]}
    classes = [category["id"] for category in content["categories"]]
    out = []
    for truth in content["annotations"]:
        if truth.get("iscrowd") or rng.random() < left_out:
            continue
        mask = mask_util.decode(truth["segmentation"])
        for copy in range(2 if rng.random() < doubled else 1):
            score = float(np.clip(rng.beta(6, 2) - 0.25 * copy, 0.02, 1.0))
            category = truth["category_id"]
            if rng.random() < renamed:
                category, score = int(rng.choice(classes)), 0.8 * score
            moved = _moved(mask, truth["bbox"], rng, jitter * (3 if rng.random() < 0.15 else 1))
            if moved.any():
                out.append(_result(truth["image_id"], category, score, moved))
    for image in images.values():
        for _ in range(rng.poisson(invented)):
            size = image["height"], image["width"]
            ellipse = _ellipse(size, rng)
            score = float(rng.beta(2, 5))
            out.append(_result(image["id"], int(rng.choice(classes)), score, ellipse))
    if boxes_only:
        for entry in out:
            del entry["segmentation"]
    return out


def _moved(mask: np.ndarray, box: list, rng: np.random.Generator, jitter: float) -> np.ndarray:
    x, y, width, height = box
    scale = 1 + rng.normal(0, jitter, 2)
    shift = rng.normal(0, jitter, 2) * (width, height)
    matrix = np.array(
        [[scale[0], 0, shift[0] + x * (1 - scale[0])], [0, scale[1], shift[1] + y * (1 - scale[1])]]
    )
    return cv2.warpAffine(mask, matrix, mask.shape[::-1], flags=cv2.INTER_NEAREST)


def _ellipse(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    height, width = size
    sides = rng.uniform(0.05, 0.3, 2) * min(size)
    center = rng.uniform(sides / 2, np.array([width, height]) - sides / 2)
    mask = np.zeros(size, dtype=np.uint8)
    cv2.ellipse(mask, (center.tolist(), sides.tolist(), 0.0), 1, cv2.FILLED)
    return mask


def _result(image_id: int, category: int, score: float, mask: np.ndarray) -> dict:
    rle = mask_util.encode(np.asfortranarray(mask))
    return {
        "image_id": image_id,
        "category_id": category,
        "score": score,
        "bbox": mask_util.toBbox(rle).tolist(),
        "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
    }
