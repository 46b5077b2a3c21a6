# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Instances with deferred masks: whoever looks sees what Detectron2 would have given."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.layers import paste_masks_in_image
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances, ROIMasks
from detectron2.utils.visualizer import Visualizer

from mrcnn_ext.structures import DeferredMaskInstances, DeferredMasks, instance_rles
from tests.helpers import random_inputs, timm_cfg
from tests.layers.mask_reference import encode

SIZE = (60, 80)


def _pair(number: int = 4, seed: int = 0) -> tuple[DeferredMaskInstances, Instances]:
    """The same instances, deferred and as Detectron2 has them."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(number, 2, generator=generator) * 40
    boxes = torch.cat([corners, corners + 5 + torch.rand(number, 2, generator=generator) * 20], 1)
    masks = torch.rand(number, 28, 28, generator=generator)
    fields = {"scores": torch.rand(number, generator=generator)}
    fields["pred_classes"] = torch.arange(number)
    deferred = DeferredMaskInstances(SIZE, pred_boxes=Boxes(boxes.clone()), **fields)
    deferred.pred_masks = DeferredMasks(masks, boxes, SIZE)
    stock = Instances(SIZE, pred_boxes=Boxes(boxes.clone()), **fields)
    stock.pred_masks = paste_masks_in_image(masks, boxes, SIZE).bool()
    return deferred, stock


def _is_deferred(instances) -> bool:
    return instances.deferred_masks is not None


READERS = {
    "attribute": lambda instances: instances.pred_masks,
    "get": lambda instances: instances.get("pred_masks"),
    "get_fields": lambda instances: instances.get_fields()["pred_masks"],
    "Instances": lambda instances: Instances(SIZE, **instances.get_fields()).pred_masks,
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_whoever_reads_gets_the_dense_tensor_and_may_change_it(read):
    deferred, stock = _pair()
    assert _is_deferred(deferred)
    masks = read(deferred)
    assert masks.dtype == torch.bool
    assert torch.equal(masks, stock.pred_masks)
    assert deferred.pred_masks is masks
    assert not _is_deferred(deferred)
    masks[0] = False
    stock.pred_masks[0] = False
    assert torch.equal(deferred[:2].pred_masks, stock.pred_masks[:2])
    assert instance_rles(deferred) == encode(stock.pred_masks)


OPERATIONS = {
    "slice": lambda x: x[1:3],
    "number": lambda x: x[-1],
    "bool": lambda x: x[x.scores > 0.4],
    "indices": lambda x: x[torch.tensor([3, 0, 0])],
    "nothing": lambda x: x[:0],
    "to": lambda x: x.to("cpu"),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda x: pickle.loads(pickle.dumps(x)),
    "cat": lambda x: type(x).cat([x, x[1:]]),
    "cat of one": lambda x: type(x).cat([x]),
    "twice": lambda x: x[1:][:2].to("cpu"),
}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_operations_leave_masks_deferred(operation):
    deferred, stock = (operation(instances) for instances in _pair())
    assert isinstance(deferred, DeferredMaskInstances)
    assert _is_deferred(deferred)
    assert len(deferred) == len(stock)
    assert deferred.has("pred_masks")
    assert deferred.image_size == stock.image_size
    assert "DeferredMasks" in str(deferred)
    assert instance_rles(deferred) == encode(stock.pred_masks)
    assert _is_deferred(deferred)
    assert torch.equal(deferred.scores, stock.scores)
    assert torch.equal(deferred.pred_boxes.tensor, stock.pred_boxes.tensor)
    assert deferred.pred_masks.dtype == stock.pred_masks.dtype
    assert torch.equal(deferred.pred_masks, stock.pred_masks)


def test_mixed_lists_are_joined_dense():
    deferred, stock = _pair()
    expected = Instances.cat([stock, stock]).pred_masks
    read = copy.copy(deferred)
    read._fields = dict(deferred._fields)
    read.get("pred_masks")
    for lists in ([deferred, read], [read, deferred], [stock, deferred]):
        joined = DeferredMaskInstances.cat([copy.copy(x) for x in lists])
        assert torch.equal(joined.pred_masks, expected)
    # Detectron2's own function knows nothing of deferred masks.
    assert torch.equal(Instances.cat([deferred, stock]).pred_masks, expected)


def test_fields_can_be_removed_replaced_and_missing():
    deferred, stock = _pair()
    deferred.pred_masks = stock.pred_masks
    assert not _is_deferred(deferred)
    deferred.remove("pred_masks")
    assert not deferred.has("pred_masks")
    assert instance_rles(deferred) is None
    with pytest.raises(AttributeError, match="Cannot find field 'pred_masks'"):
        _ = deferred.pred_masks
    with pytest.raises(KeyError):
        deferred.get("pred_masks")
    with pytest.raises(IndexError):
        _ = deferred[4]
    with pytest.raises(AssertionError, match="length 3"):
        deferred.pred_masks = _pair(3)[0].deferred_masks


def test_masks_stay_where_they_are_when_boxes_move():
    deferred, stock = _pair()
    deferred.pred_boxes.scale(2, 2)
    assert torch.equal(deferred.pred_masks, stock.pred_masks)


def test_rles_of_all_kinds_of_masks():
    deferred, stock = _pair()
    expected = encode(stock.pred_masks)
    small = deferred.deferred_masks
    boxes = Boxes(small.boxes)
    assert small.rles() == expected
    for masks in (stock.pred_masks, stock.pred_masks.numpy(), BitMasks(stock.pred_masks)):
        assert instance_rles(Instances(SIZE, pred_masks=masks)) == expected
    roi = Instances(SIZE, pred_boxes=boxes, pred_masks=ROIMasks(small.masks))
    assert instance_rles(roi) == expected


def test_detectron2s_evaluator_and_visualizer_take_them():
    deferred, stock = _pair()
    assert instances_to_coco_json(deferred, 7) == instances_to_coco_json(stock, 7)
    image = np.zeros((*SIZE, 3), dtype=np.uint8)
    pictures = []
    for instances in _pair():
        np.random.seed(0)  # of the colours
        pictures.append(Visualizer(image).draw_instance_predictions(instances).get_image())
    assert (pictures[0] == pictures[1]).all()


def _models(**changes):
    cfg = timm_cfg("resnet18", fpn=True)
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.TEST.DETECTIONS_PER_IMAGE = 10
    cfg.merge_from_list([item for pair in changes.items() for item in pair])
    torch.manual_seed(0)
    ours = build_model(cfg).eval()
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    stock = build_model(cfg).eval()
    stock.load_state_dict(ours.state_dict())
    return cfg, ours, stock


def _assert_same(ours: Instances, stock: Instances) -> None:
    assert ours.image_size == stock.image_size
    assert list(ours._fields) == list(stock._fields)
    if stock.has("pred_masks"):
        assert instance_rles(ours) == instance_rles(stock)
    for name, value in stock.get_fields().items():
        got = ours.get(name)
        assert type(got) is type(value)
        a, b = getattr(got, "tensor", got), getattr(value, "tensor", value)
        assert a.dtype == b.dtype
        assert torch.equal(a, b), name


@pytest.mark.parametrize("keypoints", [False, True])
@torch.no_grad()
def test_the_model_gives_what_generalized_rcnn_gives(keypoints):
    changes = {"MODEL.KEYPOINT_ON": keypoints, "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": 11}
    changes["MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS"] = (16,)
    cfg, ours, stock = _models(**changes)
    inputs = random_inputs(cfg)
    for model_input, size in zip(inputs, ((96, 128), (211, 333))):
        model_input["height"], model_input["width"] = size
    small = random_inputs(cfg, number=1)[0]
    small["height"], small["width"] = 3, 2  # boxes vanish
    unsized = random_inputs(cfg, number=1)[0]
    del unsized["height"], unsized["width"]
    count = 0
    for batch in (inputs, [small], [unsized]):
        for a, b in zip(ours(batch), stock(batch)):
            assert _is_deferred(a["instances"])
            _assert_same(a["instances"], b["instances"])
            count += len(a["instances"])
    assert count >= 30


@torch.no_grad()
def test_given_boxes_raw_results_and_the_switch():
    cfg, ours, stock = _models()
    inputs = random_inputs(cfg, number=1)
    given = Instances((96, 128), pred_boxes=Boxes(torch.tensor([[10.0, 9.0, 60.0, 70.0]])))
    given.pred_classes = torch.tensor([3])
    results = [m.inference(inputs, [copy.deepcopy(given)])[0] for m in (ours, stock)]
    _assert_same(results[0]["instances"], results[1]["instances"])
    raw = ours.inference(inputs, do_postprocess=False)[0]
    assert raw.pred_masks.shape == (10, 1, 28, 28)
    _, switched_off, _ = _models(**{"MRCNN_EXT.DEFER_MASKS": False})
    result = switched_off(inputs)[0]["instances"]
    assert type(result) is Instances
    _assert_same(result, stock(inputs)[0]["instances"])
    _, without, plain = _models(**{"MODEL.MASK_ON": False})
    _assert_same(without(inputs)[0]["instances"], plain(inputs)[0]["instances"])


@pytest.mark.filterwarnings("ignore")
def test_a_scripted_model_is_detectron2s():
    from detectron2.export import scripting_with_instances

    cfg, ours, _ = _models(
        **{
            "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
            "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
            "MODEL.RESNETS.DEPTH": 18,
            "MODEL.RESNETS.RES2_OUT_CHANNELS": 64,
        }
    )  # fmt: skip  (timm's cannot be scripted)
    fields = {
        "proposal_boxes": Boxes, "objectness_logits": torch.Tensor, "pred_boxes": Boxes,
        "scores": torch.Tensor, "pred_classes": torch.Tensor, "pred_masks": torch.Tensor,
    }  # fmt: skip
    inputs = [{"image": random_inputs(cfg, number=1)[0]["image"]}]
    with torch.no_grad():
        expected = ours.inference(inputs, do_postprocess=False)[0]
        scripted = scripting_with_instances(ours, fields)
        got = scripted.inference(inputs, None, False)[0]
    assert len(got) == len(expected) == 10
    torch.testing.assert_close(got.pred_masks, expected.pred_masks)
