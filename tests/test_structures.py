# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Masks that become dense when they are read."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.modeling import GeneralizedRCNN, build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.visualizer import Visualizer

from mrcnn_ext.layers import paste_masks
from mrcnn_ext.structures import DeferredMaskInstances, DeferredMasks, instance_rles
from tests.helpers import random_inputs, timm_cfg


def _deferred(count: int = 5) -> DeferredMaskInstances:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(count, 2, generator=generator) * 40
    boxes = torch.cat([corners, corners + 5 + 20 * torch.rand(count, 2, generator=generator)], 1)
    masks = torch.rand(count, 1, 14, 14, generator=generator)
    return DeferredMaskInstances(
        (60, 70),
        pred_boxes=Boxes(boxes),
        scores=torch.rand(count, generator=generator),
        pred_classes=torch.arange(count),
        pred_masks=DeferredMasks(masks, boxes, (60, 70)),
    )


def _is_deferred(instances: Instances) -> bool:
    return isinstance(instances._fields["pred_masks"], DeferredMasks)


def test_reading_gives_the_dense_masks():
    instances = _deferred()
    raw = instances._fields["pred_masks"]
    expected = paste_masks(raw.masks, raw.boxes, (60, 70))
    assert _is_deferred(instances)
    for masks in (instances.pred_masks, instances.get("pred_masks")):
        assert torch.equal(masks, expected)
        assert masks.dtype == torch.bool
    assert instances.pred_masks is instances.pred_masks  # made once
    assert torch.equal(instances.get_fields()["pred_masks"], expected)
    assert instances.has("pred_masks")
    assert torch.equal(Instances((60, 70), **instances.get_fields()).pred_masks, expected)


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: x[torch.tensor([3, 1])],
        lambda x: x[torch.tensor([False, True, False, True, True])],
        lambda x: x[1:3],
        lambda x: x[-1],
        lambda x: x[:0],
        lambda x: x.to("cpu"),
        copy.copy,
        copy.deepcopy,
        lambda x: pickle.loads(pickle.dumps(x)),
    ],
)
def test_operations_leave_masks_deferred(operation):
    result = operation(_deferred())
    assert _is_deferred(result)
    dense = _deferred()
    dense.pred_masks = dense.pred_masks
    assert not _is_deferred(dense)
    expected = operation(dense).pred_masks
    assert torch.equal(result.pred_masks, expected)
    assert [r["counts"] for r in instance_rles(operation(_deferred()))] == [
        mask_util.encode(np.asfortranarray(m.numpy().astype(np.uint8)))["counts"] for m in expected
    ]


def test_boxes_changed_later_leave_masks_alone():
    instances, expected = _deferred(), _deferred().pred_masks
    instances.pred_boxes.scale(2, 2)
    assert torch.equal(instances.pred_masks, expected)


def test_cat_index_errors_and_other_fields():
    both = Instances.cat([_deferred(), _deferred()])
    assert both.pred_masks.shape == (10, 60, 70)
    with pytest.raises(IndexError):
        _deferred()[5]
    with pytest.raises(AttributeError, match="pred_keypoints"):
        _ = _deferred().pred_keypoints
    assert instance_rles(Instances((5, 5), scores=torch.zeros(2))) is None
    instances = _deferred()
    instances.remove("pred_masks")
    assert not instances.has("pred_masks")


def test_detectron2s_consumers_see_dense_masks():
    instances, dense = _deferred(), _deferred()
    dense.pred_masks = dense.pred_masks
    assert instances_to_coco_json(instances, 7) == instances_to_coco_json(dense, 7)
    image = np.zeros((60, 70, 3), np.uint8)
    drawn = Visualizer(image).draw_instance_predictions(_deferred()).get_image()
    assert drawn.any()


@pytest.mark.parametrize("defer", [True, False])
def test_model_gives_what_generalized_rcnn_gives(defer):
    cfg = timm_cfg("resnet18", fpn=True)
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.MRCNN_EXT.DEFER_MASKS = defer
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    batch = random_inputs(cfg)
    batch[0].update(height=200, width=301)
    del batch[1]["height"]
    with torch.no_grad():
        results = model(batch)
        expected = GeneralizedRCNN.inference(model, batch)
        raw = model.inference(batch, do_postprocess=False)
    for result, other in zip(results, expected):
        ours, theirs = result["instances"], other["instances"]
        assert isinstance(ours, DeferredMaskInstances) == defer
        assert not defer or _is_deferred(ours)
        assert ours.image_size == theirs.image_size
        rles = [r["counts"] for r in instance_rles(ours)]
        assert set(ours.get_fields()) == set(theirs.get_fields())
        assert torch.equal(ours.pred_boxes.tensor, theirs.pred_boxes.tensor)
        for name in ("scores", "pred_classes", "pred_masks"):
            assert torch.equal(ours.get(name), theirs.get(name))
        assert rles == [r["counts"] for r in instance_rles(theirs)]
    assert all(type(x) is Instances for x in raw)


def test_model_without_masks():
    cfg = timm_cfg("resnet18", fpn=True)
    cfg.MODEL.MASK_ON = False
    model = build_model(cfg).eval()
    with torch.no_grad():
        (result,) = model(random_inputs(cfg)[:1])
    assert not result["instances"].has("pred_masks")
