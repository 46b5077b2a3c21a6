# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Focal and class-balanced loss: values against float64 by hand, weights, RoI heads, errors."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_roi_heads
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from mrcnn_ext.config.check_class_weights import check_weighted_heads
from mrcnn_ext.data.class_counts import count_instances
from mrcnn_ext.errors import ConfigError, DataError
from mrcnn_ext.modeling.class_weights import (
    ClassWeights,
    class_balanced_weights,
    inverse_sqrt_weights,
)
from mrcnn_ext.modeling.roi_heads import ClassBalancedLoss, FocalLoss, MrcnnExtOutputLayers
from mrcnn_ext.modes import losses_in_eval
from tests.helpers import random_inputs, timm_cfg

NAME = "mrcnn_ext_test_class_counts"
COUNTS = {0: 3, 1: 200, 7: 40}  # of the eight classes of timm_cfg


@pytest.fixture
def dataset():
    def annotations():
        for label, count in COUNTS.items():
            yield from ({"category_id": label, "iscrowd": 0} for _ in range(count))
        yield {"category_id": 4, "iscrowd": 1}

    DatasetCatalog.register(
        NAME, lambda: [{"file_name": "a.jpg", "annotations": list(annotations())}, {}]
    )
    MetadataCatalog.get(NAME).set(thing_classes=[f"kind{i}" for i in range(8)])
    yield NAME
    DatasetCatalog.pop(NAME)
    MetadataCatalog.pop(NAME)


def _logits(rois=23, classes=5, scale=6.0):
    random = np.random.default_rng(3)
    logits = scale * random.standard_normal((rois, classes + 1))
    return logits, random.integers(0, classes + 1, rois)


def _probabilities(logits):
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def _value_and_gradient(loss, logits, classes):
    tensor = torch.tensor(logits, dtype=torch.float32, requires_grad=True)
    value = loss(tensor, torch.tensor(classes))
    value.backward()
    return value.item(), tensor.grad.numpy()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss(gamma):
    logits, classes = _logits()
    rows = np.arange(len(classes))
    p = _probabilities(logits)
    true = p[rows, classes]
    value, gradient = _value_and_gradient(FocalLoss(gamma=gamma), logits, classes)
    assert value == pytest.approx((-((1 - true) ** gamma) * np.log(true)).mean(), rel=1e-5)
    # d loss / d logit_j = factor · (1[j is the true class] - p_j)
    factor = gamma * (1 - true) ** (gamma - 1) * true * np.log(true) - (1 - true) ** gamma
    expected = -p
    expected[rows, classes] += 1
    np.testing.assert_allclose(
        gradient, factor[:, None] * expected / len(classes), rtol=1e-4, atol=1e-7
    )


def test_focal_loss_of_a_certain_roi_has_a_finite_gradient():
    value, gradient = _value_and_gradient(FocalLoss(gamma=0.5), [[200.0, 0.0]], [0])
    assert value == 0
    assert np.isfinite(gradient).all()


def test_class_balanced_loss():
    logits, classes = _logits()
    weights = np.array([0.2, 3.0, 1.0, 0.7, 0.1])
    loss = ClassBalancedLoss(num_classes=5, class_weights=weights.tolist())
    value, _ = _value_and_gradient(loss, logits, classes)
    true = _probabilities(logits)[np.arange(len(classes)), classes]
    expected = -(np.append(weights, 1.0)[classes] * np.log(true)).sum() / len(classes)
    assert value == pytest.approx(expected, rel=1e-5)


def test_focal_loss_weighted_by_class():
    logits, classes = _logits()
    weights = np.array([0.2, 3.0, 1.0, 0.7, 0.1])
    by_class = ClassWeights(num_classes=5, factors=weights.tolist())
    loss = FocalLoss(gamma=2.0, class_weights=by_class)
    value, gradient = _value_and_gradient(loss, logits, classes)
    p = _probabilities(logits)
    rows = np.arange(len(classes))
    true, w = p[rows, classes], np.append(weights, 1.0)[classes]
    assert value == pytest.approx((-w * (1 - true) ** 2 * np.log(true)).mean(), rel=1e-5)
    factor = w * (2 * (1 - true) * true * np.log(true) - (1 - true) ** 2)
    expected = -p
    expected[rows, classes] += 1
    np.testing.assert_allclose(
        gradient, factor[:, None] * expected / len(classes), rtol=1e-4, atol=1e-7
    )


def test_no_value_is_read_on_the_host():
    """Tensors without values would raise where one is asked for, as a GPU would be waited for."""
    weights = ClassWeights(num_classes=5, factors=[1.0] * 5)
    for loss in (
        ClassBalancedLoss(num_classes=5, class_weights=weights),
        FocalLoss(class_weights=weights),
    ):
        logits = torch.zeros(4, 6, device="meta")
        loss.to("meta")(logits, torch.zeros(4, dtype=torch.int64, device="meta"))


def test_weights_by_the_root_of_the_number():
    weights = inverse_sqrt_weights([1, 100, 0, 25])
    mean = (1 + 0.1 + 0.2) / 3
    assert weights == pytest.approx([1 / mean, 0.1 / mean, 1 / mean, 0.2 / mean])


def test_weights_follow_the_effective_number():
    weights = class_balanced_weights([1, 50, 0, 4000], 0.99)
    raw = [1 / sum(0.99**i for i in range(n)) for n in (1, 50, 1, 4000)]
    mean = (raw[0] + raw[1] + raw[3]) / 3
    assert weights == pytest.approx([value / mean for value in raw])
    assert class_balanced_weights([1, 50, 0], 0.0) == [1, 1, 1]
    with pytest.raises(ConfigError, match=r"beta is 1\.0; expected"):
        class_balanced_weights([1], 1.0)


@pytest.mark.parametrize(
    "loss", [FocalLoss(), ClassBalancedLoss(num_classes=5, class_weights=[1] * 5)]
)
def test_no_rois_give_zero_and_gradients(loss):
    logits = torch.zeros(0, 6, requires_grad=True)
    value = loss(logits, torch.zeros(0, dtype=torch.int64))
    value.backward()
    assert value == 0
    assert logits.grad.shape == (0, 6)


def test_objects_are_counted_at_the_first_loss_and_missing_classes_named(dataset, caplog):
    assert count_instances(dataset, 8) == [COUNTS.get(i, 0) for i in range(8)]
    loads = []
    loss = ClassBalancedLoss(num_classes=8, beta=0.99, dataset_names=dataset)
    assert not loss.state_dict()
    assert torch.equal(loss.class_weights, torch.ones(9))  # nothing was loaded
    original = DatasetCatalog.get
    DatasetCatalog.get = lambda name: loads.append(name) or original(name)
    try:
        for _ in range(2):
            loss(torch.zeros(1, 9), torch.tensor([8]))
    finally:
        DatasetCatalog.__dict__.pop("get", None)
    assert loads == [dataset]
    expected = class_balanced_weights([COUNTS.get(i, 0) for i in range(8)], 0.99)
    torch.testing.assert_close(loss.class_weights, torch.tensor([*expected, 1.0]))
    present = [expected[i] for i in COUNTS]
    assert math.isclose(sum(present) / 3, 1.0)
    (warning,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert "no object of 'kind2', 'kind3', 'kind4', 'kind5', 'kind6' in" in warning
    with pytest.raises(DataError, match=rf"'{dataset}': image a\.jpg has an object of class 7"):
        count_instances(dataset, 7)


@pytest.mark.parametrize("rule", ["", "inverse_sqrt", "class_balanced"])
def test_named_classes_have_their_factors_and_the_rule_gives_the_others(rule, dataset):
    counts = [COUNTS.get(i, 0) for i in range(8)]
    expected = {
        "": [1.0] * 8,
        "inverse_sqrt": inverse_sqrt_weights(counts),
        "class_balanced": class_balanced_weights(counts, 0.99),
    }[rule]
    expected[1], expected[4] = 7.0, 0.0
    weights = ClassWeights(
        num_classes=8,
        rule=rule,
        factors={"kind1": 7, "kind4": 0.0},
        beta=0.99,
        dataset_names=(dataset,),
    )
    assert not weights.state_dict()
    found = weights(torch.arange(9))
    torch.testing.assert_close(found, torch.tensor([*expected, 1.0]))
    copied = pickle.loads(pickle.dumps(weights))
    assert torch.equal(copied(torch.arange(9)), found)


def test_names_are_looked_up_when_the_data_are_there(dataset):
    MetadataCatalog.pop(dataset)  # as of a json that was not read yet
    weights = ClassWeights(num_classes=8, factors={"kin1": 2.0}, dataset_names=dataset)
    with pytest.raises(ConfigError, match=r"metadata of 'mrcnn_ext_test.*' have no thing_classes"):
        weights(torch.arange(9))
    MetadataCatalog.get(dataset).set(thing_classes=[f"kind{i}" for i in range(8)])
    with pytest.raises(ConfigError, match=r"names 'kin1', which is no class.*similar: kind1"):
        weights(torch.arange(9))
    with pytest.raises(ConfigError, match=r"names 'kin1', which is no class.*similar: kind1"):
        ClassWeights(num_classes=8, factors={"kin1": 2.0}, dataset_names=dataset)
    weights = ClassWeights(num_classes=5, factors={"kind7": 2.0}, dataset_names=dataset)
    with pytest.raises(
        ConfigError, match=r"are for 5 classes \(num_classes\), but .* has 8: kind0"
    ):
        weights(torch.arange(5))


def _cfg(kind, loss):
    cfg = timm_cfg("resnet18", fpn=kind != "Res5")
    if kind == "Cascade":
        cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = True
    if kind == "Res5":
        cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
        cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 8
        cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 16
    cfg.MODEL.ROI_HEADS.NAME = f"MrcnnExt{kind}ROIHeads"
    cfg.MRCNN_EXT.BOX_HEAD.CLS_LOSS = loss
    cfg.MRCNN_EXT.BOX_HEAD.CLASS_BALANCED_BETA = 0.99
    return cfg


def _build_heads(cfg):
    """RoI heads and what they take in training, without a backbone."""
    if cfg.MODEL.ROI_HEADS.IN_FEATURES == ["res4"]:
        shapes = {"res4": ShapeSpec(channels=256, stride=16)}
    else:
        shapes = {f"p{i}": ShapeSpec(channels=8, stride=2**i) for i in (2, 3, 4, 5)}
    torch.manual_seed(0)
    heads = build_roi_heads(cfg, shapes)
    features = {
        n: torch.randn(2, s.channels, 64 // s.stride, 64 // s.stride) for n, s in shapes.items()
    }
    targets = [item["instances"] for item in random_inputs(cfg, height=64, width=64)]
    proposals = []
    for item in targets:
        boxes = Boxes(
            torch.cat([item.gt_boxes.tensor + 2, torch.rand(6, 4) + torch.tensor([0, 0, 9, 9])])
        )
        logits = torch.zeros(len(boxes))
        proposals.append(Instances((64, 64), proposal_boxes=boxes, objectness_logits=logits))
    return heads, (features, proposals, targets)


def _step(heads, inputs):
    torch.manual_seed(0)  # of the samplers
    with EventStorage():
        losses = heads.train()(None, *copy.deepcopy(inputs))[1]
    sum(losses.values()).backward()
    return losses


@pytest.mark.parametrize(
    ("kind", "loss", "weights"),
    [
        ("Standard", "focal", []),
        ("Cascade", "class_balanced", []),
        ("Res5", "focal", ["inverse_sqrt"]),
        ("Standard", "", [["kind0", 3.0]]),
        ("Cascade", "", ["inverse_sqrt", ["kind0", 3.0]]),
    ],
)
def test_roi_heads_take_the_loss_and_nothing_else_changes(kind, loss, weights, dataset):
    cfg = _cfg(kind, "")
    stock, inputs = _build_heads(cfg)
    cfg.MRCNN_EXT.BOX_HEAD.CLS_LOSS, cfg.MRCNN_EXT.BOX_HEAD.CLASS_WEIGHTS = loss, weights
    cfg.DATASETS.TRAIN = (dataset,)
    ours, _ = _build_heads(cfg)
    assert list(ours.state_dict()) == list(stock.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(stock.parameters(), ours.parameters()))
    expected, losses = _step(stock, inputs), _step(ours, inputs)
    assert losses.keys() == expected.keys()
    for name, value in losses.items():
        assert torch.isfinite(value)
        assert torch.equal(value, expected[name]) is not name.startswith("loss_cls"), name
    predictors = ours.box_predictor if kind == "Cascade" else [ours.box_predictor]
    assert all(isinstance(item, MrcnnExtOutputLayers) for item in predictors)
    assert len({id(item.classification_loss) for item in predictors}) == 1  # counted once
    assert predictors[0].cls_score.weight.grad.abs().sum() > 0
    pickle.loads(pickle.dumps(predictors[0]))  # which a class made on the fly could not


def test_a_validation_loss_that_comes_first_leaves_the_weights(dataset):
    """As after a resume whose evaluation was missed; it restores the buffers of the model."""
    weights = ClassWeights(num_classes=8, rule="inverse_sqrt", dataset_names=dataset)
    with losses_in_eval(weights), torch.no_grad():
        expected = weights(torch.arange(9))
    assert expected[0] > 2 * expected[1]
    assert torch.equal(weights(torch.arange(9)), expected)
    assert not weights.state_dict()


@pytest.mark.parametrize("train", [("mrcnn_ext_test_not_there",), ()])
def test_heads_predict_without_the_training_data(train):
    cfg = _cfg("Standard", "class_balanced")
    cfg.MRCNN_EXT.BOX_HEAD.CLASS_WEIGHTS = [["kind1", 2.0]]
    cfg.DATASETS.TRAIN = train
    heads, (features, proposals, _) = _build_heads(cfg)
    with torch.no_grad():
        assert len(heads.eval()(None, features, proposals)[0]) == 2


def test_lazy_layers_weigh_the_loss():
    layers = {}
    for target in (FastRCNNOutputLayers, MrcnnExtOutputLayers):
        own = target is MrcnnExtOutputLayers
        torch.manual_seed(0)
        layers[own] = instantiate(
            L(target)(
                input_shape=ShapeSpec(channels=4),
                box2box_transform=L(Box2BoxTransform)(weights=(10, 10, 5, 5)),
                num_classes=3,
                loss_weight={"loss_cls": 0.5},
                **({"classification_loss": L(FocalLoss)(gamma=0.0)} if own else {}),
            )
        )
    boxes = Boxes(torch.tensor([[0.0, 0.0, 9.0, 9.0]] * 4))
    proposals = [Instances((20, 20), proposal_boxes=boxes, gt_boxes=boxes)]
    proposals[0].gt_classes = torch.tensor([0, 1, 3, 3])
    features = torch.randn(4, 4)
    with EventStorage():
        losses = {own: item.losses(item(features), proposals) for own, item in layers.items()}
        torch.testing.assert_close(losses[True], losses[False])  # gamma 0 is cross entropy
        nothing = layers[True].losses(layers[True](features[:0]), [proposals[0][:0]])
    assert nothing["loss_cls"] == 0
    nothing["loss_cls"].backward()


def test_what_does_not_fit_is_named():
    cfg = _cfg("Standard", "focal")
    check_weighted_heads(cfg)
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    with pytest.raises(ConfigError, match=r"CLS_LOSS is 'focal', which StandardROIHeads does not"):
        check_weighted_heads(cfg)
    with pytest.raises(ConfigError, match="has 2 numbers; expected one for each of 3 classes"):
        ClassBalancedLoss(num_classes=3, class_weights=[1, 1])
    with pytest.raises(ConfigError, match="neither class_weights nor dataset_names"):
        ClassBalancedLoss(num_classes=3)
    with pytest.raises(ConfigError, match=r"gamma of FocalLoss is -1"):
        FocalLoss(gamma=-1)
    with pytest.raises(ConfigError, match=r"rule of class weights is 'sqrt'; expected '' or one"):
        ClassWeights(num_classes=3, rule="sqrt")
    with pytest.raises(ConfigError, match=r"need dataset_names \(DATASETS.TRAIN\)"):
        ClassWeights(num_classes=3, rule="inverse_sqrt")
    with pytest.raises(ConfigError, match=r"are 2 numbers; expected one for each of 3 classes"):
        ClassWeights(num_classes=3, factors=[1.0, 2.0])
    with pytest.raises(ConfigError, match=r"a weight of the loss is -1\.0; expected"):
        ClassWeights(num_classes=3, factors=[1.0, -1.0, 2.0])
