# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Masks at the true boxes, and at the boxes that were found, compared with the truth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import Boxes, BoxMode, Instances
from pycocotools import mask as mask_util
from torch import nn

from ...evaluation.matched_boxes import match_boxes
from ...modeling.mask_heads.scoring import FREE_MASK_SCORES, free_mask_quality

__all__ = ["TrueObject", "box_as_mask", "given_boxes", "predict", "true_objects"]
__all__ += ["QUALITIES", "box_ious", "masks_at_true_boxes", "match_detections", "rles_of"]
__all__ += ["segmentation_rle"]

# What a mask may be scored by; "score in use" is what masks are ranked by.
QUALITIES = ("class score", "mean_foreground", "certainty", "mask_iou", "score in use")
_FIELD = "quality_"


@dataclass
class TrueObject:
    """An annotation that counts.

    Attributes:
        index: place in its image's annotations.
        category: contiguous id.
        box: x0, y0, x1, y1 in pixels of the image file.
        rle: compressed RLE.
        area: of the mask in pixels.
    """

    image_id: int | str
    index: int
    category: int
    box: list[float]
    rle: dict = field(repr=False)
    area: int = 0

    def __post_init__(self) -> None:
        self.area = int(mask_util.area(self.rle))


def true_objects(record: dict) -> list[TrueObject]:
    """Annotations of an image with a mask of at least a pixel, crowds left out.

    Args:
        record: of a data set in Detectron2's format.
    """
    found = []
    for index, item in enumerate(record.get("annotations", [])):
        segmentation = item.get("segmentation")
        if item.get("iscrowd", 0) or segmentation is None or len(segmentation) == 0:
            continue
        box = BoxMode.convert(item["bbox"], item["bbox_mode"], BoxMode.XYXY_ABS)
        rle = segmentation_rle(segmentation, record["height"], record["width"])
        one = TrueObject(
            record["image_id"], index, item["category_id"], [float(v) for v in box], rle
        )
        if one.area > 0:
            found.append(one)
    return found


def segmentation_rle(segmentation, height: int, width: int) -> dict:
    """Compressed RLE of polygons, an RLE of either kind, or a dense mask."""
    if isinstance(segmentation, list):
        return mask_util.merge(mask_util.frPyObjects(segmentation, height, width))
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], list):
        return mask_util.frPyObjects(segmentation, height, width)
    if isinstance(segmentation, dict):
        return segmentation
    return _encoded(np.asarray(segmentation))


def _encoded(mask: np.ndarray) -> dict:
    return mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))


def given_boxes(inputs: dict, objects: Sequence) -> Instances:
    """Boxes and classes of objects in the pixels of the network's input."""
    height, width = inputs["image"].shape[1:]
    given = Instances((height, width))
    boxes = torch.tensor([x.box for x in objects], dtype=torch.float32).reshape(-1, 4)
    given.pred_boxes = Boxes(boxes)
    given.pred_boxes.scale(width / inputs["width"], height / inputs["height"])
    given.pred_classes = torch.tensor([x.category for x in objects], dtype=torch.int64)
    return given


@torch.no_grad()
def predict(model: nn.Module, inputs: dict, given: Instances | None = None) -> Instances:
    """A model's output for one image, on the CPU, with ``quality_…`` of each mask beside it.

    Args:
        model: a GeneralizedRCNN in evaluation mode.
        inputs: of one image, as a mapper makes them.
        given: boxes for which masks are wanted; None detects.

    Returns:
        Instances in the pixels of the image file, which also have ``quality_mean_foreground`` and
        ``quality_certainty`` (n,), and ``quality_mask_iou`` if the head predicts it.
    """
    (raw,) = model.inference(  # type: ignore[operator]
        [inputs], None if given is None else [given], do_postprocess=False
    )
    size = raw.image_size
    _add_qualities(model, raw)
    (output,) = GeneralizedRCNN._postprocess([raw], [inputs], [size])
    return output["instances"].to("cpu")


def _add_qualities(model: nn.Module, raw: Instances) -> None:
    masks = raw.get("pred_masks") if raw.has("pred_masks") else None
    if not isinstance(masks, torch.Tensor) or masks.dim() != 4 or masks.shape[1] != 1:
        return  # masks in another form, of which no probabilities are known
    for kind in FREE_MASK_SCORES:
        raw.set(_FIELD + kind, free_mask_quality(kind, masks.float()))
    head = model.roi_heads.mask_head  # type: ignore[union-attr]
    if getattr(head, "score", "") == "mask_iou" and raw.has("mask_scores"):
        quality = raw.mask_scores
        if raw.has("scores"):
            if getattr(head, "fold_score", False):
                return  # the class score alone is not known any more
            quality = quality / raw.scores.clamp(min=1e-12)
        raw.set(_FIELD + "mask_iou", quality)


def rles_of(instances: Instances) -> list[dict]:
    """Compressed RLE of each mask (bytes)."""
    masks = instances.pred_masks
    return [_encoded(mask.numpy()) for mask in masks]


def box_as_mask(one: TrueObject) -> dict:
    """The filled true box: what a head that knows nothing could answer."""
    height, width = one.rle["size"]
    x0, y0, x1, y1 = (round(v) for v in one.box)
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[max(y0, 0) : max(y1, y0 + 1), max(x0, 0) : max(x1, x0 + 1)] = 1
    return _encoded(mask)


def masks_at_true_boxes(
    model: nn.Module, records: Sequence[dict], mapper
) -> Iterator[tuple[TrueObject, dict]]:
    """Each object with the mask that the model gives for its box and class."""
    for record in records:
        objects = true_objects(record)
        if not objects:
            continue
        inputs = mapper(record)
        # Postprocessing drops boxes that are empty; so do these
        output = predict(model, inputs, _with_places(given_boxes(inputs, objects)))
        masks = dict(zip(output.place.tolist(), rles_of(output)))
        nothing = _encoded(np.zeros(objects[0].rle["size"]))
        for place, one in enumerate(objects):
            yield one, masks.get(place, nothing)


def _with_places(given: Instances) -> Instances:
    given.place = torch.arange(len(given))
    return given


def match_detections(output: Instances, objects: Sequence[TrueObject]) -> list[dict[str, float]]:
    """Detections whose box has an IoU of 0.5 or more with an object of their class.

    Returns:
        for each: "iou" of its mask, and each of ``QUALITIES`` that is known.
    """
    rows = []
    rles = rles_of(output) if output.has("pred_masks") else []
    for category in {x.category for x in objects}:
        chosen = np.flatnonzero(output.pred_classes.numpy() == category)
        wanted = [x for x in objects if x.category == category]
        if not len(chosen) or not rles:
            continue
        overlaps = box_ious(output.pred_boxes.tensor.numpy()[chosen], [x.box for x in wanted])
        scores = output.scores.numpy()[chosen]
        for row, column in match_boxes(overlaps, scores, np.zeros(len(wanted), bool), 0.5):
            place = int(chosen[row])
            iou = float(mask_util.iou([rles[place]], [wanted[column].rle], [0])[0, 0])
            rows.append({"iou": iou, **_qualities(output, place)})
    return rows


def _qualities(output: Instances, place: int) -> dict[str, float]:
    values = {"class score": float(output.scores[place])}
    for kind in (*FREE_MASK_SCORES, "mask_iou"):
        if output.has(_FIELD + kind):
            values[kind] = float(output.get(_FIELD + kind)[place])
    if output.has("mask_scores"):
        values["score in use"] = float(output.mask_scores[place])
    return values


def box_ious(first: np.ndarray, second: Sequence[Sequence[float]]) -> np.ndarray:
    """(A, B) IoUs of boxes x0, y0, x1, y1."""
    a, b = (np.asarray(x, dtype=np.float64).reshape(-1, 4).copy() for x in (first, second))
    for boxes in (a, b):
        boxes[:, 2:] -= boxes[:, :2]
    return np.asarray(mask_util.iou(a, b, [0] * len(b))).reshape(len(a), len(b))
