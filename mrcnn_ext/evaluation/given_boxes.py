# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Masks that a model makes in the boxes of the ground truth, compared with the ground truth."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from torch import nn

from ..coco.index import GroundTruth
from ..errors import DataError
from .boundary import mask_and_boundary_iou
from .mask_quality import summarize_quality
from .records import instances_to_records
from .results_file import ground_truth_of

__all__ = ["mask_quality_at_boxes"]


def mask_quality_at_boxes(
    model: nn.Module, loader: Iterable[list[dict]], dataset: str, boundary_dilation: float = 0.02
) -> dict[str, float]:
    """Mean mask IoU and boundary IoU when every box and class is right.

    Args:
        model: GeneralizedRCNN or a subclass; may be wrapped for several processes.
        loader: of Detectron2's test loader's kind: "image", "image_id", "height", "width".
        dataset: the registered data set that the loader loads.
        boundary_dilation: width of boundaries, as a fraction of the image's diagonal.

    Returns:
        "IoU", "IoUs" …, "boundary_IoU" … in percent, as "mask_quality"; over all processes in the
        main process, and an empty dict in the others. Crowds are left out; a mask that is lost on the
        way (its box is empty at the image's size) counts as 0.

    Raises:
        DataError: the loader's images are not those of the data set.
    """
    model = getattr(model, "module", model)
    ground_truth = ground_truth_of(dataset)
    classes = _classes(dataset, ground_truth)
    objects = defaultdict(list)
    for entry in ground_truth.objects:
        if not entry["iscrowd"]:
            objects[entry["image_id"]].append(entry)
    rows: list[tuple[float, float, float]] = []
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for inputs in (one for batch in loader for one in batch):
                number = ground_truth.image_number.get(inputs["image_id"])
                if number is None:
                    raise DataError(
                        f"image id {inputs['image_id']!r} is not in {ground_truth.source}."
                    )
                if objects[number]:
                    given = _given(inputs, objects[number], classes)
                    output = model.inference([inputs], detected_instances=[given.to(model.device)])
                    found = output[0]["instances"].to("cpu")
                    rows += _compare(found, objects[number], ground_truth, boundary_dilation)
    finally:
        model.train(was_training)
    everywhere = comm.gather(rows, dst=0)
    if not comm.is_main_process():
        return {}
    return summarize_quality([row for part in everywhere for row in part])


def _classes(dataset: str, ground_truth: GroundTruth) -> dict[int, int]:
    """Number of a category -> the model's class."""
    mapping = MetadataCatalog.get(dataset).get("thing_dataset_id_to_contiguous_id")
    numbers = ground_truth.category_number
    return {n: mapping[c] if mapping else c for c, n in numbers.items()}


def _given(inputs: dict, objects: list[dict], classes: dict[int, int]) -> Instances:
    height, width = inputs["image"].shape[-2:]
    boxes = torch.tensor([entry["bbox"] for entry in objects], dtype=torch.float32)
    boxes[:, 2:] += boxes[:, :2]
    scale = torch.tensor([width / inputs["width"], height / inputs["height"]])
    given = Instances((height, width))
    given.pred_boxes = Boxes(boxes * scale.repeat(2))
    given.pred_classes = torch.tensor([classes[entry["category_id"]] for entry in objects])
    given.scores = torch.ones(len(objects))
    given.object_index = torch.arange(len(objects))
    return given


def _compare(
    found: Instances, objects: list[dict], ground_truth: GroundTruth, boundary_dilation: float
) -> list[tuple[float, float, float]]:
    values = [(0.0, 0.0, entry["area"]) for entry in objects]
    for record, index in zip(instances_to_records(found, 0), found.object_index.tolist()):
        rle, entry = record["segmentation"], objects[index]
        ground_truth.check_mask(entry["image_id"], rle)
        truth = ground_truth.rle(entry)
        ious = mask_and_boundary_iou(rle, truth, boundary_dilation)
        values[index] = (*ious, entry["area"])
    return values
