# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Test-time augmentation with keypoints."""

import pytest
import torch
from detectron2.data import transforms as T
from detectron2.modeling import GeneralizedRCNNWithTTA, build_model
from detectron2.structures import Boxes

from mrcnn_ext.errors import ConfigError
from mrcnn_ext.modeling.tta import KeypointRCNNWithTTA
from tests.helpers import random_inputs, timm_cfg

NUM_KEYPOINTS = 11  # of the synthetic set's figure


@pytest.fixture
def cfg():
    cfg = timm_cfg("resnet18", fpn=True)
    cfg.MODEL.KEYPOINT_ON = True
    cfg.MODEL.ROI_KEYPOINT_HEAD.NAME = "MrcnnExtHeatmapKeypointHead"
    cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = NUM_KEYPOINTS
    cfg.MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS = (8,)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 8
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.DATASETS.TRAIN = ("mrcnn_ext_shapes_train",)
    cfg.TEST.DETECTIONS_PER_IMAGE = 5
    cfg.TEST.AUG.MIN_SIZES = (80, 112)
    cfg.TEST.AUG.MAX_SIZE = 160
    return cfg


def _model(cfg):
    torch.manual_seed(0)
    return build_model(cfg).eval()


@torch.no_grad()
def test_a_real_model_runs_and_boxes_and_masks_are_detectron2s(cfg):
    model = _model(cfg)
    inputs = random_inputs(cfg, number=1)
    (ours,) = KeypointRCNNWithTTA(cfg, model)(inputs)
    ours = ours["instances"]
    assert ours.pred_keypoints.shape == (len(ours), NUM_KEYPOINTS, 3)
    assert torch.isfinite(ours.pred_keypoints).all()
    assert model.roi_heads.keypoint_on
    plain = cfg.clone()
    plain.MODEL.KEYPOINT_ON = False
    model.roi_heads.keypoint_on = False
    (stock,) = GeneralizedRCNNWithTTA(plain, model)(inputs)
    stock = stock["instances"]
    assert torch.equal(ours.pred_boxes.tensor, stock.pred_boxes.tensor)
    assert torch.equal(ours.pred_masks, stock.pred_masks)
    (again,) = KeypointRCNNWithTTA(plain, model)(inputs)
    assert not again["instances"].has("pred_keypoints")


@torch.no_grad()
def test_with_no_augmentation_it_is_the_plain_prediction(cfg):
    model = _model(cfg)
    inputs = random_inputs(cfg, number=1)[0]
    inputs = {k: inputs[k] for k in ("image", "height", "width")}

    def identity(one):
        return [{**one, "transforms": T.TransformList([T.NoOpTransform()])}]

    (found,) = KeypointRCNNWithTTA(cfg, model, identity)([inputs])
    found = found["instances"]
    given = found.__class__(found.image_size)
    given.pred_boxes = Boxes(found.pred_boxes.tensor.clone())
    given.pred_classes, given.scores = found.pred_classes, found.scores
    (expected,) = model.inference([inputs], [given], do_postprocess=False)
    torch.testing.assert_close(found.pred_keypoints, expected.pred_keypoints)


class _Oracle(torch.nn.Module):
    """Knows where keypoints are in the original image, and so where they are in any augmented one."""

    def __init__(self, points: torch.Tensor, width: int, height: int, indices) -> None:
        super().__init__()
        self.points, self.size, self.indices = points, (width, height), list(indices)
        self.mirrored = False

    def forward(self, features, instances):
        for x in instances:
            height, width = x.image_size
            points = self.points.clone()
            points[:, 0] *= width / self.size[0]
            points[:, 1] *= height / self.size[1]
            if self.is_mirrored(x):
                points[:, 0] = width - points[:, 0]
                points = points[self.indices]  # what looks like the left one is the right one
            points = points.expand(len(x), *points.shape)
            x.pred_keypoints = torch.cat([points, torch.full_like(points[..., :1], 0.7)], dim=2)
        return instances

    def is_mirrored(self, x) -> bool:
        # Boxes to the right of the middle in the original are to the left in a mirrored image
        return bool(x.pred_boxes.get_centers()[0, 0] < x.image_size[1] / 2)


@torch.no_grad()
def test_positions_come_back_and_names_change_places(cfg):
    model = _model(cfg)
    inputs = random_inputs(cfg, number=1)[0]
    inputs = {k: inputs[k] for k in ("image", "height", "width")}
    tta = KeypointRCNNWithTTA(cfg, model)
    assert tta.flip_indices == [0, 1, 2, 4, 3, 6, 5, 8, 7, 10, 9]
    points = torch.rand(NUM_KEYPOINTS, 2) * torch.tensor([inputs["width"], inputs["height"]])
    model.roi_heads.keypoint_head = _Oracle(
        points, inputs["width"], inputs["height"], tta.flip_indices
    )
    # One box, in the right half of the image
    width, height = inputs["width"], inputs["height"]
    box = torch.tensor([[0.6 * width, 0.3 * height, 0.9 * width, 0.8 * height]])

    def merged(boxes, scores, classes, shape):
        result = original(boxes, scores, classes, shape)[:1]
        result.pred_boxes = Boxes(box.clone())
        return result

    original, tta._merge_detections = tta._merge_detections, merged
    (found,) = tta([inputs])
    found = found["instances"].pred_keypoints
    torch.testing.assert_close(found[0, :, :2], points, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found[0, :, 2], torch.full((NUM_KEYPOINTS,), 0.7))


def test_scores_are_weights(cfg):
    tta = KeypointRCNNWithTTA(cfg, _model(cfg))
    plain = T.TransformList([T.NoOpTransform()])

    class Output:
        def __init__(self, x, score):
            self.pred_keypoints = torch.tensor([[[x, 2.0, score]]])

    tta.flip_indices = [0]
    (found,) = tta._reduce_keypoints([Output(0.0, 0.1), Output(8.0, 0.3)], [plain, plain])
    torch.testing.assert_close(found, torch.tensor([[6.0, 2.0, 0.2]]))
    (found,) = tta._reduce_keypoints([Output(0.0, 0.0), Output(8.0, 0.0)], [plain, plain])
    torch.testing.assert_close(found, torch.tensor([[4.0, 2.0, 0.0]]))


def test_unknown_pairs_are_an_error(cfg):
    model = _model(cfg)
    with pytest.raises(
        ConfigError, match=r"flip_indices are \[0, 0\]; expected each of 0 to 10 once"
    ):
        KeypointRCNNWithTTA(cfg, model, flip_indices=[0, 0])
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("mrcnn_ext_nobody_knows",)
    with pytest.raises(ConfigError, match="which keypoints change places"):
        KeypointRCNNWithTTA(cfg, model)
