# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Made-up predictions as lines of predict, and how other programs read the forms."""

from __future__ import annotations

import numpy as np
from pycocotools import mask as mask_util

from mrcnn_ext.data.convert.brush import decode_brush
from mrcnn_ext.results import Predictions
from mrcnn_ext.skeletons import Skeleton, SkeletonSet
from tests.evaluation.evaluation_cases import CLASSES, KEYPOINTS, encode, make_case

NAMES = tuple(f"point {i}" for i in range(KEYPOINTS))
IDS = {class_id: 3 * class_id + 2 for class_id in range(len(CLASSES))}


def made_up(seed: int = 3, images: int = 6) -> tuple[dict, list[dict], Predictions]:
    """Ground truth, predictions in COCO's result format, and the same as predict has them."""
    dataset, records = make_case(seed, images)
    sizes = {image["id"]: (image["width"], image["height"]) for image in dataset["images"]}
    for record in records:  # a model's keypoints are in the image
        points = np.reshape(record["keypoints"], (-1, 3))
        points[:, :2] = points[:, :2].clip(0, sizes[record["image_id"]])
        record["keypoints"] = points.ravel().tolist()
    return dataset, records, predictions_of(dataset, records)


def predictions_of(dataset: dict, records: list[dict]) -> Predictions:
    lines = [
        {
            "image_id": image["id"],
            "file": image["file_name"],
            "height": image["height"],
            "width": image["width"],
            "results": [r for r in records if r["image_id"] == image["id"]],
        }
        for image in dataset["images"]
    ]
    skeletons = SkeletonSet.single(Skeleton("thing", NAMES, edges=((NAMES[0], NAMES[2]),)), CLASSES)
    return Predictions(lines, CLASSES, IDS, skeletons)


def label_studio_records(tasks: list[dict]) -> list[dict]:
    """What Label Studio would show, as COCO's results: each object from its regions."""
    records: list[dict] = []
    numbers = {name: IDS[index] for index, name in enumerate(CLASSES)}
    for task in tasks:
        (prediction,) = task["predictions"]
        objects: dict[str, dict] = {}
        for region in prediction["result"]:
            width, height = region["original_width"], region["original_height"]
            value, kind = region["value"], region["type"]
            if kind == "keypointlabels":
                points = objects[region["parentID"]].setdefault("keypoints", [0] * 3 * KEYPOINTS)
                place = 3 * NAMES.index(*value["keypointlabels"])
                points[place] = value["x"] * width / 100
                points[place + 1] = value["y"] * height / 100
                points[place + 2] = region["score"]
                continue
            label = numbers[value[kind][0]]
            found = objects.setdefault(
                region.get("parentID", region["id"]),
                {"image_id": task["data"]["image_id"], "category_id": label, "parts": []},
            )
            found["score"] = region["score"]
            if kind == "brushlabels":
                mask = decode_brush(value["rle"], width, height)
                found["parts"].append(encode(mask))
            elif kind == "polygonlabels":
                flat = (np.array(value["points"]) * (width / 100, height / 100)).ravel().tolist()
                (rle,) = mask_util.frPyObjects([flat], height, width)
                found["parts"].append(rle)
            else:
                found["parts"].append(encode(np.zeros((height, width))))
        for found in objects.values():
            rle = mask_util.merge(found.pop("parts"))
            found["segmentation"] = {**rle, "counts": rle["counts"].decode()}
            records.append(found)
    return records
