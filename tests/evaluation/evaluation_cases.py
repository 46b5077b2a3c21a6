# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Made-up ground truth and predictions, and what pycocotools says about them."""

from __future__ import annotations

import contextlib
import copy
import io
import json

import numpy as np
from pycocotools import mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mrcnn_ext.evaluation import EvaluationSettings, GroundTruth, evaluate_records

CLASSES = ("ring", "star", "gear", "never seen")
KEYPOINTS = 5
SIGMAS = (0.05, 0.1, 0.03, 0.08, 0.1)
BACKENDS = ["faster_coco_eval", "pycocotools"]


def quiet(function, *args, **kwargs):
    with contextlib.redirect_stdout(io.StringIO()):
        return function(*args, **kwargs)


def coco_of(dataset: dict) -> COCO:
    coco = COCO()
    coco.dataset = copy.deepcopy(dataset)
    quiet(coco.createIndex)
    return coco


def encode(mask: np.ndarray) -> dict:
    rle = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}


def blob(rng, height: int, width: int, box=None) -> np.ndarray:
    """A mask with a ragged outline and holes, often at the border of the image."""
    mask = np.zeros((height, width), dtype=np.uint8)
    if box is None:
        w, h = rng.integers(4, width // 2), rng.integers(4, height // 2)
        x, y = rng.integers(-2, width - w + 3), rng.integers(-2, height - h + 3)
    else:
        x, y, w, h = box
    ys, xs = np.mgrid[:height, :width]
    inside = ((xs - x - w / 2) / (w / 2)) ** 2 + ((ys - y - h / 2) / (h / 2)) ** 2 <= 1.2
    mask[inside & (xs >= x) & (xs < x + w) & (ys >= y) & (ys < y + h)] = 1
    mask[rng.random((height, width)) < 0.02] = 0
    return mask


def make_case(seed: int, images: int = 6, keypoints: bool = True) -> tuple[dict, list[dict]]:
    """A COCO dataset and jittered predictions with equal scores, misses, wrong classes."""
    rng = np.random.default_rng(seed)
    dataset: dict = {"images": [], "annotations": [], "categories": []}
    dataset["categories"] = [{"id": 3 * i + 2, "name": name} for i, name in enumerate(CLASSES)]
    records = []
    for number in range(images):
        height, width = int(rng.integers(40, 200)), int(rng.integers(40, 200))
        image_id = 100 - 7 * number
        dataset["images"].append(
            {"id": image_id, "height": height, "width": width, "file_name": f"{image_id}.jpg"}
        )
        for _ in range(rng.integers(0, 8)):
            mask = blob(rng, height, width)
            if not mask.any():
                continue
            annotation = _annotation(rng, mask, image_id, len(dataset["annotations"]) + 1)
            dataset["annotations"].append(annotation)
            for _ in range(rng.integers(0, 3)):
                records.append(_record(rng, annotation, height, width))
    if not keypoints:
        for item in (*dataset["annotations"], *records):
            item.pop("keypoints", None)
    return dataset, records


def _annotation(rng, mask, image_id, annotation_id) -> dict:
    rle = encode(mask)
    points = np.zeros((KEYPOINTS, 3))
    if rng.random() < 0.8:
        points[:, 0] = rng.random(KEYPOINTS) * mask.shape[1]
        points[:, 1] = rng.random(KEYPOINTS) * mask.shape[0]
        points[:, 2] = rng.integers(0, 3, KEYPOINTS)
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": int(rng.choice([2, 5, 8])),
        "bbox": mask_util.toBbox(rle).tolist(),
        "area": float(mask.sum()),
        "iscrowd": int(rng.random() < 0.15),
        "segmentation": rle,
        "keypoints": points.ravel().tolist(),
        "num_keypoints": int((points[:, 2] > 0).sum()),
    }


def _record(rng, annotation, height, width) -> dict:
    jitter = rng.normal(size=4) * rng.choice([0.3, 1.5, 6])
    x, y, w, h = np.array(annotation["bbox"]) + jitter
    points = np.array(annotation["keypoints"]).reshape(-1, 3)
    points[:, :2] += rng.normal(size=(KEYPOINTS, 2)) * rng.choice([1, 5])
    label = annotation["category_id"] if rng.random() < 0.85 else 11
    return {
        "image_id": annotation["image_id"],
        "category_id": label,
        "bbox": [float(x), float(y), float(max(w, 1)), float(max(h, 1))],
        "score": round(float(rng.random()), 1),
        "segmentation": encode(blob(rng, height, width, (x, y, max(w, 2), max(h, 2)))),
        "keypoints": points.ravel().tolist(),
    }


def pycocotools_stats(dataset, records, task, max_dets=(1, 10, 100), sigmas=None) -> COCOeval:
    """As Detectron2 evaluates: results are loaded by pycocotools, mask AP without boxes."""
    records = copy.deepcopy(records)
    if task == "segm":
        for record in records:
            record.pop("bbox")
    truth = coco_of(dataset)
    found = quiet(truth.loadRes, records)
    evaluation = COCOeval(truth, found, task)
    if task == "keypoints":
        evaluation.params.kpt_oks_sigmas = np.array(sigmas)
    else:
        evaluation.params.maxDets = list(max_dets)
    quiet(evaluation.evaluate)
    quiet(evaluation.accumulate)
    return evaluation


def stats_of(evaluation: COCOeval, task: str) -> dict[str, float]:
    quiet(evaluation.summarize)
    stats = evaluation.stats * 100
    stats[stats < 0] = np.nan
    if task == "keypoints":
        names = ["AP", "AP50", "AP75", "APm", "APl", "AR@20", None, None, "ARm", "ARl"]
    else:
        names = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR@1", "AR@10", "AR@100"]
        names += ["ARs", "ARm", "ARl"]
    return {name: value for name, value in zip(names, stats) if name}


def assert_same(first: dict, second: dict, keys=None) -> None:
    for key in keys if keys is not None else second:
        np.testing.assert_allclose(first[key], second[key], rtol=0, atol=1e-9, err_msg=key)


def write(path, content) -> str:
    path.write_text(json.dumps(content))
    return str(path)


def evaluate(dataset, records, tasks=None, image_ids=None, **rules):
    rules.setdefault("sigmas", SIGMAS)
    return evaluate_records(
        records, GroundTruth(coco_of(dataset), image_ids), EvaluationSettings(tasks, **rules)
    )
