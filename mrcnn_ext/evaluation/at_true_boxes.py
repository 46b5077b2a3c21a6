# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Measure the masks that a model predicts in the boxes of the ground truth."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances
from detectron2.utils import comm
from torch import nn

from ..coco.index import GroundTruth
from ..coco.read import missing_masks
from ..errors import DataError
from ..modes import restore_modes
from .boundary import mask_and_boundary_iou
from .records import instances_to_records
from .results_file import ground_truth_of
from .tasks.mask_quality import summarize_quality

__all__ = ["given_boxes", "mask_quality_at_boxes"]


def given_boxes(
    inputs: dict, boxes: Sequence[Sequence[float]] | torch.Tensor, classes: Sequence[int]
) -> Instances:
    """Boxes and classes for a model to make masks or keypoints in.

    Args:
        inputs: of one image: "image" (C, H, W), "height" and "width" of the image file.
        boxes: (N, 4) x0, y0, x1, y1 in pixels of the image file.
        classes: (N,) contiguous.

    Returns:
        Instances in the pixels of the network's input, with "pred_boxes", "pred_classes" and "place"
        (N,), their number: postprocessing drops boxes that are empty at the image's size.
    """
    height, width = inputs["image"].shape[-2:]
    given = Instances((height, width))
    given.pred_boxes = Boxes(torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4).clone())
    given.pred_boxes.scale(width / inputs["width"], height / inputs["height"])
    given.pred_classes = torch.tensor(classes, dtype=torch.int64)
    given.place = torch.arange(len(given))
    return given


def mask_quality_at_boxes(
    model: nn.Module,
    loader: Iterable[list[dict]],
    dataset: str,
    boundary_dilation: float = 0.02,
    *,
    boxes_only: bool = False,
) -> dict[str, float]:
    """Mean mask IoU and boundary IoU when every box and class is right.

    Args:
        model: GeneralizedRCNN or a subclass; may be wrapped for several processes.
        loader: of Detectron2's test loader's kind: "image", "image_id", "height", "width".
        dataset: the registered data set that the loader loads.
        boundary_dilation: width of boundaries, as a fraction of the image's diagonal.
        boxes_only: objects may have a box and no mask; they are left out, too.

    Returns:
        "IoU", "IoUs" …, "boundary_IoU" … in percent, as "mask_quality"; over all processes in the
        main process, and an empty dict in the others. Crowds are left out; a mask that is lost on the
        way (its box is empty at the image's size) counts as 0.

    Raises:
        DataError: the loader's images are not those of the data set, or an object has no mask.
    """
    model = getattr(model, "module", model)
    ground_truth = ground_truth_of(dataset)
    mapping = MetadataCatalog.get(dataset).get("thing_dataset_id_to_contiguous_id")
    # Number of a category -> the model's class.
    classes = {n: mapping[c] if mapping else c for c, n in ground_truth.category_number.items()}
    if boxes_only:
        ground_truth = ground_truth.for_masks()
    elif problem := missing_masks(entry["annotation"] for entry in ground_truth.objects):
        raise DataError(f"{ground_truth.source}: {problem}. boxes_only=True leaves them out.")
    objects = defaultdict(list)
    for entry in ground_truth.objects:
        if not entry["iscrowd"]:
            objects[entry["image_id"]].append(entry)
    rows: list[tuple[float, float, float]] = []
    with restore_modes(model), torch.no_grad():
        model.eval()
        for inputs in (one for batch in loader for one in batch):
            number = ground_truth.image_number.get(inputs["image_id"])
            if number is None:
                raise DataError(f"image id {inputs['image_id']!r} is not in {ground_truth.source}.")
            if own := objects[number]:
                boxes = torch.tensor([o["bbox"] for o in own], dtype=torch.float32)
                boxes = BoxMode.convert(boxes, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
                given = given_boxes(inputs, boxes, [classes[o["category_id"]] for o in own])
                given.scores = torch.ones(len(own))
                output = model.inference([inputs], detected_instances=[given.to(model.device)])
                found = output[0]["instances"].to("cpu")
                rows += _compare(found, own, ground_truth, boundary_dilation)
    everywhere = comm.gather(rows, dst=0)
    if not comm.is_main_process():
        return {}
    return summarize_quality([row for part in everywhere for row in part])


def _compare(
    found: Instances, objects: list[dict], ground_truth: GroundTruth, boundary_dilation: float
) -> list[tuple[float, float, float]]:
    values = [(0.0, 0.0, entry["area"]) for entry in objects]
    for record, index in zip(instances_to_records(found, 0), found.place.tolist()):
        rle, entry = record["segmentation"], objects[index]
        ground_truth.check_mask(entry["image_id"], rle)
        truth = ground_truth.rle(entry)
        ious = mask_and_boundary_iou(rle, truth, boundary_dilation)
        values[index] = (*ious, entry["area"])
    return values
