# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Whole models on a GPU: they train, in half precision too, and say what they say on the CPU."""

from __future__ import annotations

import pytest
import torch
from detectron2.engine import DefaultTrainer
from detectron2.modeling import (
    ROI_KEYPOINT_HEAD_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
    build_model,
)
from detectron2.structures import Boxes, Instances, Keypoints
from detectron2.utils.events import EventStorage

from mrcnn_ext.data import shapes
from mrcnn_ext.evaluation import MrcnnExtCOCOEvaluator
from tests.gpu import DEVICE, needs_gpu
from tests.helpers import random_inputs, timm_cfg

pytestmark = needs_gpu

MASK_HEADS = [name for name, _ in ROI_MASK_HEAD_REGISTRY if name.startswith("MrcnnExt")]
KEYPOINT_HEADS = [name for name, _ in ROI_KEYPOINT_HEAD_REGISTRY if name.startswith("MrcnnExt")]
NUM_KEYPOINTS = 5


@pytest.fixture(autouse=True)
def _float32_means_float32():
    """TF32, which torch uses in convolutions, would hide differences."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def head_cfg(name: str):
    """A small Mask R-CNN with that mask or keypoint head, on given proposals, all of which it takes."""
    cfg = timm_cfg("resnet18", fpn=True)
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "PrecomputedProposals"
    cfg.MODEL.ROI_HEADS.NAME = "MrcnnExtStandardROIHeads"
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 10_000
    cfg.MODEL.ROI_HEADS.POSITIVE_FRACTION = 1.0
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()
    if name in KEYPOINT_HEADS:
        cfg.MODEL.KEYPOINT_ON = True
        cfg.MODEL.ROI_KEYPOINT_HEAD.NAME = name
        cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = NUM_KEYPOINTS
        cfg.MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS = [16, 16]
        cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE = 0
        cfg.MRCNN_EXT.KEYPOINT_HEAD.RLE.FC_DIM = 32
    else:
        cfg.MODEL.ROI_MASK_HEAD.NAME = name
        cfg.MRCNN_EXT.MASK_HEAD.SCORE = "mask_iou"
        if ROI_MASK_HEAD_REGISTRY.get(name).needs_maps:
            cfg.MODEL.ROI_MASK_HEAD.POOLER_TYPE = ""
    return cfg


def make_batch(cfg) -> list[dict]:
    """Images of noise with objects, keypoints and proposals around the objects."""
    batch = random_inputs(cfg)
    generator = torch.Generator().manual_seed(1)
    for item in batch:
        size = (item["height"], item["width"])
        boxes = item["instances"].gt_boxes.tensor
        place = torch.rand(len(boxes), NUM_KEYPOINTS, 2, generator=generator)
        points = boxes[:, None, :2] + place * (boxes[:, None, 2:] - boxes[:, None, :2])
        visible = torch.full((*points.shape[:2], 1), 2.0)
        item["instances"].gt_keypoints = Keypoints(torch.cat([points, visible], dim=2))
        near = boxes.repeat(4, 1) + torch.randn(4 * len(boxes), 4, generator=generator) * 3
        item["proposals"] = Instances(
            size, proposal_boxes=Boxes(near), objectness_logits=torch.zeros(len(near))
        )
    return batch


def make_models(cfg):
    """The same weights on the CPU and on the GPU."""
    torch.manual_seed(0)
    on_cpu = build_model(cfg)
    cfg = cfg.clone()
    cfg.MODEL.DEVICE = DEVICE
    on_gpu = build_model(cfg)
    on_gpu.load_state_dict(on_cpu.state_dict())
    return on_cpu, on_gpu


def given_boxes(batch: list[dict]) -> list[Instances]:
    found = []
    for item in batch:
        boxes = item["proposals"].proposal_boxes.tensor
        x = Instances((item["height"], item["width"]), pred_boxes=Boxes(boxes.clone()))
        x.scores = torch.linspace(0.9, 0.1, len(boxes))
        x.pred_classes = torch.arange(len(boxes)) % 8
        found.append(x)
    return found


def losses_and_gradients(model, batch, head: str):
    model.train()
    torch.manual_seed(0)
    with EventStorage():
        losses = model(batch)
    model.zero_grad()
    sum(losses.values()).backward()
    gradients = [p.grad for p in getattr(model.roi_heads, head).parameters()]
    return {key: float(value) for key, value in losses.items()}, gradients


@pytest.mark.parametrize("name", [*MASK_HEADS, *KEYPOINT_HEADS])
def test_head_trains_and_predicts_as_on_the_cpu(name):
    """Losses within 0.1 %, mask scores within 0.002, keypoints within a tenth of a pixel.

    One value in 200 may be beside that: where a head chooses (the highest pixel, the least certain
    points), two candidates may be equal but for rounding.
    """
    head = "keypoint_head" if name in KEYPOINT_HEADS else "mask_head"
    cfg = head_cfg(name)
    batch = make_batch(cfg)
    models = make_models(cfg)
    steps = [losses_and_gradients(model, batch, head) for model in models]
    assert steps[0][0].keys() == steps[1][0].keys()
    for key, expected in steps[0][0].items():
        # PointRend draws its points at random.
        tolerance = 0.1 if "PointRend" in name and "mask" in key else 1e-3
        assert steps[1][0][key] == pytest.approx(expected, rel=tolerance, abs=1e-4), key
    for expected, gradient in zip(steps[0][1], steps[1][1]):
        assert (expected is None) == (gradient is None)
        assert gradient is None or torch.isfinite(gradient).all()

    results = []
    for model in models:
        with torch.no_grad():
            results.append(model.eval().inference(batch, given_boxes(batch), do_postprocess=False))
    for expected, actual in zip(*results):
        fields = actual.to("cpu").get_fields()
        assert fields.keys() == expected.get_fields().keys()
        _compare(fields["pred_masks"], expected.pred_masks, 2e-3)
        if expected.has("mask_scores"):
            _compare(fields["mask_scores"], expected.mask_scores, 2e-3)
        if name in KEYPOINT_HEADS:
            _compare(fields["pred_keypoints"], expected.pred_keypoints, 0.1)
    with torch.no_grad():
        whole = models[1](
            batch,
        )[0]["instances"]
    assert whole.pred_masks.shape == (len(whole), 96, 128)
    assert whole.pred_masks.device.type == DEVICE


def _compare(actual, expected, tolerance: float) -> None:
    actual, expected = (getattr(x, "tensor", x) for x in (actual, expected))
    assert torch.isfinite(actual).all()
    beside = ((actual - expected).abs() > tolerance).float().mean()
    assert beside < 0.005, f"{100 * float(beside):.2f} % differ by more than {tolerance}"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", [*MASK_HEADS, *KEYPOINT_HEADS])
def test_head_under_autocast(name, dtype):
    """Losses within 10 % of float32's (PointRend's points are random), finite gradients and results."""
    head = "keypoint_head" if name in KEYPOINT_HEADS else "mask_head"
    cfg = head_cfg(name)
    batch = make_batch(cfg)
    model = make_models(cfg)[1]
    expected, _ = losses_and_gradients(model, batch, head)
    with torch.autocast("cuda", dtype=dtype):
        losses, gradients = losses_and_gradients(model, batch, head)
        with torch.no_grad():
            results = model.eval().inference(batch, given_boxes(batch), do_postprocess=False)
    for key, value in expected.items():
        assert losses[key] == pytest.approx(value, rel=0.1, abs=0.05), key
    assert all(torch.isfinite(g).all() for g in gradients if g is not None)
    for result in results:
        masks = getattr(result.pred_masks, "tensor", result.pred_masks)
        assert ((masks >= 0) & (masks <= 1)).all()
        if name in KEYPOINT_HEADS:
            assert torch.isfinite(result.pred_keypoints).all()


@pytest.mark.parametrize("roi_heads", ["Standard", "Cascade"])
@pytest.mark.parametrize("dtype", [None, torch.float16, torch.bfloat16])
def test_model_learns(roi_heads, dtype):
    """30 steps on one batch: the loss falls by a third at least, and stays finite."""
    cfg = timm_cfg("resnet18", fpn=True)
    cfg.MODEL.DEVICE = DEVICE
    cfg.MODEL.ROI_HEADS.NAME = f"MrcnnExt{roi_heads}ROIHeads"
    cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = roi_heads == "Cascade"
    torch.manual_seed(0)
    model = build_model(cfg).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler(DEVICE, enabled=dtype == torch.float16)
    batch = random_inputs(cfg)
    history = []
    for _ in range(30):
        with EventStorage(), torch.autocast(DEVICE, dtype=dtype, enabled=dtype is not None):
            loss = sum(model(batch).values())
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        history.append(loss.detach())
    history = torch.stack(history).cpu()
    assert torch.isfinite(history).all()
    assert history[-5:].mean() < history[:5].mean() * 2 / 3, history


@pytest.fixture
def tiny_set():
    sizes = {"num_train": 6, "num_val": 3, "image_size": 96}
    shapes.configure_builtin_shapes(**sizes)
    yield [x for key, value in sizes.items() for x in (f"MRCNN_EXT.SHAPES.{key.upper()}", value)]
    shapes.configure_builtin_shapes()


@pytest.mark.parametrize("amp", [False, True])
def test_detectron2s_trainer_trains_and_evaluates(amp, tiny_set, tmp_path):
    cfg = timm_cfg("resnet18", fpn=True)
    cfg.merge_from_list(tiny_set)
    cfg.MODEL.DEVICE = DEVICE
    cfg.MODEL.ROI_HEADS.NAME = "MrcnnExtStandardROIHeads"
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (96,), 96
    cfg.SOLVER.AMP.ENABLED = amp
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS = 2, 6, ()
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.OUTPUT_DIR = str(tmp_path)

    class Trainer(DefaultTrainer):
        @classmethod
        def build_evaluator(cls, cfg, dataset_name):
            return MrcnnExtCOCOEvaluator(dataset_name, output_dir=cfg.OUTPUT_DIR)

    trainer = Trainer(cfg)
    trainer.train()
    assert {"bbox", "segm"} <= trainer._last_eval_results.keys()
    assert (tmp_path / "model_final.pth").is_file()
