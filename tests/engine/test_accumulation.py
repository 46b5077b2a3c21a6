# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Gradients in parts are the mean of the parts' own, and those of the joint batch where they can be."""

from __future__ import annotations

import copy
import os
import types
from contextlib import contextmanager

import pytest
import torch
from detectron2.engine import AMPTrainer, SimpleTrainer
from detectron2.modeling import build_model
from detectron2.structures import Keypoints
from detectron2.utils.events import EventStorage, get_event_storage
from torch import nn

from mrcnn_ext.engine.accumulation import (
    AccumulatingAMPTrainer,
    AccumulatingTrainer,
    accumulate,
)
from mrcnn_ext.engine.roi_counts import roi_counts
from mrcnn_ext.errors import ConfigError
from tests.helpers import random_inputs, timm_cfg


class Tiny(nn.Module):
    """Losses of a list of images in float64: means over all rows of their "x", or over images."""

    def __init__(self, per_image=False):
        super().__init__()
        self.layer = nn.Linear(3, 1).double()
        self.per_image = per_image

    def forward(self, images):
        get_event_storage().put_scalar("rows", sum(len(image["x"]) for image in images))
        outputs = [self.layer(image["x"]).square() for image in images]
        if self.per_image:
            return {"loss_a": sum(y.sum() for y in outputs) / len(images)}
        y = torch.cat(outputs)
        return {"loss_a": y.mean(), "loss_b": 2 * y.max()}


class Loader(list):
    """What a trainer iterates over, for ever."""

    batch_size = None

    def __iter__(self):
        while True:
            yield from super().__iter__()


def _images(rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [{"x": torch.rand(n, 3, generator=generator, dtype=torch.float64)} for n in rows]


def _trainer(model, batch, steps, **kwargs):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    return AccumulatingTrainer(model, Loader([batch]), optimizer, steps=steps, **kwargs)


def _step(trainer, iteration=0):
    with EventStorage(iteration) as storage:
        trainer.iter = iteration
        trainer.run_step()
    gradients = {
        n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None
    }
    return gradients, storage


def _direct(model, batch):
    model = copy.deepcopy(model)
    model.zero_grad()
    with EventStorage():
        losses = model(batch)
    sum(losses.values()).backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}, losses


def test_the_mean_of_the_parts_gradients():
    model = Tiny()
    batch = _images([2, 5, 1, 4])
    gradients, storage = _step(_trainer(model, batch, 2), iteration=7)
    parts = [_direct(model, part) for part in (batch[:2], batch[2:])]
    for name, gradient in gradients.items():
        mean = (parts[0][0][name] + parts[1][0][name]) / 2
        torch.testing.assert_close(gradient, mean, rtol=1e-13, atol=0)
    expected = {
        n: float((parts[0][1][n] + parts[1][1][n]).detach()) / 2 for n in ("loss_a", "loss_b")
    }
    expected |= {"total_loss": sum(expected.values()), "rows": 6}
    latest = storage.latest()
    for name, value in expected.items():
        assert latest[name] == (pytest.approx(value), 7), name
        assert len(storage.history(name).values()) == 1


@pytest.mark.parametrize(("count", "steps"), [(4, 2), (4, 4), (5, 2), (3, 1), (1, 2), (5, 4)])
def test_the_joint_batch_where_losses_are_sums_over_images(count, steps):
    model = Tiny(per_image=True)
    batch = _images([2, 5, 1, 4, 3][:count])
    gradients, storage = _step(_trainer(model, batch, steps))
    joint, losses = _direct(model, batch)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, joint[name], rtol=1e-13, atol=0)
    assert storage.latest()["total_loss"][0] == pytest.approx(float(losses["loss_a"].detach()))


def test_a_step_is_that_of_the_large_batch():
    """Same loader and optimizer with momentum: the weights go the same way."""
    model = Tiny(per_image=True)
    other = copy.deepcopy(model)
    batches = Loader([_images([2, 5], 1), _images([3, 1], 2)])
    settings = {"lr": 0.1, "momentum": 0.9}
    ours = AccumulatingTrainer(
        model, batches, torch.optim.SGD(model.parameters(), **settings), steps=2
    )
    stock = SimpleTrainer(other, batches, torch.optim.SGD(other.parameters(), **settings))
    for trainer in (ours, stock):
        trainer.train(0, 5)
    for a, b in zip(model.parameters(), other.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
    assert ours.state_dict().keys() == stock.state_dict().keys()


def test_a_trainer_that_exists():
    model = Tiny()
    inner = SimpleTrainer(
        model,
        Loader([_images([1, 2]), _images([3, 4])]),
        torch.optim.SGD(model.parameters(), lr=0.1),
    )
    next(inner._data_loader_iter)
    trainer = types.SimpleNamespace(_trainer=inner)
    accumulate(trainer, steps=2)
    assert type(inner) is AccumulatingTrainer
    _, storage = _step(inner)
    assert storage.latest()["rows"][0] == 3.5  # the iterator went on
    accumulate(inner, steps=1)  # again
    assert inner.accumulation_steps == 1


def test_processes_exchange_gradients_once():
    class Wrapped(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module, self.log, self.quiet = module, [], False

        @contextmanager
        def no_sync(self):
            self.quiet = True
            yield
            self.quiet = False

        def forward(self, images):
            self.log.append(self.quiet)
            return self.module(images)

    model = Wrapped(Tiny())
    _step(_trainer(model, _images([1, 2, 3]), 3))
    assert model.log == [True, True, False]


class _Scaler:
    """A GradScaler's part in a step, without a GPU."""

    def __init__(self):
        self.log = []

    def scale(self, loss):
        self.log.append("scale")
        return loss * 4

    def step(self, optimizer):
        self.log.append("step")

    def update(self):
        self.log.append("update")


def test_mixed_precision_scales_each_part_and_steps_once(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    model, batch, scaler = Tiny(), _images([2, 5, 1, 4]), _Scaler()
    inner = AMPTrainer(
        model, Loader([batch]), torch.optim.SGD(model.parameters(), lr=0.1), grad_scaler=scaler
    )
    accumulate(inner, steps=2)
    assert type(inner) is AccumulatingAMPTrainer
    monkeypatch.setattr(inner, "_autocast", lambda: torch.autocast("cpu", torch.bfloat16))
    _step(inner)
    assert scaler.log == ["scale", "scale", "step", "update"]
    assert inner.grad_scaler is scaler


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 0}, "ACCUMULATE .* is 0; expected a whole number"),
        ({"normalizer": "batch"}, "is 'batch'; expected 'micro_batch' or 'whole_batch'"),
        ({"normalizer": "whole_batch"}, "'whole_batch', but Tiny does not say"),
        ({"size": 3}, "is 2, but each process has 3 images .* divisor of 3"),
    ],
)
def test_what_is_refused_before_training(change, words):
    model, loader = Tiny(), Loader([])
    loader.batch_size = change.pop("size", None)
    inner = SimpleTrainer(model, loader, torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(ConfigError, match=words):
        accumulate(inner, **{"steps": 2, **change})


def test_loaders_and_trainers_that_do_not_fit():
    with pytest.raises(ConfigError, match="gives a Tensor; expected a list of images"):
        _step(_trainer(Tiny(), torch.zeros(3, 2), 2))

    class Own(SimpleTrainer):
        pass

    own = Own(Tiny(), Loader([]), torch.optim.SGD(Tiny().parameters(), lr=0.1))
    with pytest.raises(ConfigError, match="steps are those of Own"):
        accumulate(own, steps=2)


def _rcnn(cascade):
    cfg = timm_cfg("mobilenetv3_small_050", fpn=True)
    cfg.MRCNN_EXT.TIMM.NORM = "GN"
    cfg.MRCNN_EXT.TIMM.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res4", "res5"]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32], [64], [128]]
    cfg.MODEL.RPN.IN_FEATURES = ["p4", "p5", "p6"]
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p4", "p5"]
    # Nothing is drawn by chance: all proposals and anchors are taken.
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = cfg.MODEL.RPN.BATCH_SIZE_PER_IMAGE = 10000
    cfg.MODEL.RPN.POSITIVE_FRACTION = cfg.MODEL.ROI_HEADS.POSITIVE_FRACTION = 1.0
    cfg.MODEL.ROI_HEADS.NAME = "CascadeROIHeads" if cascade else "MrcnnExtStandardROIHeads"
    cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = cascade
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()
    cfg.MODEL.KEYPOINT_ON = True
    head = cfg.MODEL.ROI_KEYPOINT_HEAD
    head.NUM_KEYPOINTS, head.CONV_DIMS, head.POOLER_RESOLUTION = 2, [8], 7
    head.NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS = True
    torch.manual_seed(0)
    return cfg, build_model(cfg)


def _rcnn_batch(cfg):
    """Four images of one size with 2, 1, 1 and 0 objects, and keypoints of which some are hidden."""
    batch = random_inputs(cfg, number=4, height=64, width=128)
    for index, (image, count) in enumerate(zip(batch, (2, 1, 1, 0))):
        instances = image["instances"]
        points = torch.tensor([[[20.0, 20, 2], [40, 40, 1]], [[60, 40, 2], [100, 60, 0]]])
        points[0, 0, 2] = index % 2
        instances.gt_keypoints = Keypoints(points)
        image["instances"] = instances[torch.arange(count)]
    return batch


@pytest.mark.parametrize("cascade", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_losses_of_an_rcnn_normalised_by_the_whole_batch(cascade):
    cfg, model = _rcnn(cascade)
    batch = _rcnn_batch(cfg)
    joint, losses = _direct(model, batch)
    gradients, storage = _step(_trainer(model, batch, 2, normalizer="whole_batch"))
    assert set(gradients) == set(joint)
    for name, loss in losses.items():
        assert storage.latest()[name][0] == pytest.approx(float(loss.detach()), rel=2e-6), name
    for name, gradient in gradients.items():
        scale = float(joint[name].abs().max())
        torch.testing.assert_close(gradient, joint[name], rtol=1e-3, atol=1e-4 * scale + 1e-7)
    _, local = _step(_trainer(model, batch, 2))
    for name in ("loss_mask", "loss_keypoint"):  # the parts' means differ from that of all
        assert local.latest()[name][0] != pytest.approx(float(losses[name].detach()), rel=3e-5)


def test_counting_leaves_no_trace():
    cfg = timm_cfg("resnet18", fpn=True)
    cfg.MRCNN_EXT.TIMM.NORM = "BN"
    model = build_model(cfg).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attributes = [set(vars(module)) for module in model.modules()]
    with EventStorage():
        torch.manual_seed(0)
        counts = roi_counts(model, random_inputs(cfg))
    assert set(counts) == {"rois", "masks"}
    assert counts["rois"] == 2 * 16  # BATCH_SIZE_PER_IMAGE
    assert 4 <= counts["masks"] <= 8  # at least the true boxes, at most a quarter
    after = model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert attributes == [set(vars(module)) for module in model.modules()]


def test_objects_without_a_mask_are_not_counted_among_masks():
    cfg = timm_cfg("resnet18", fpn=True)
    cfg.MODEL.ROI_MASK_HEAD.NAME = "MrcnnExtFCNMaskHead"
    model = build_model(cfg).train()
    inputs = random_inputs(cfg)
    counts = []
    for has_mask in (True, False):
        for image in inputs:
            instances = image["instances"]
            instances.gt_has_mask = torch.zeros(len(instances), dtype=torch.bool)
            instances.gt_has_mask[: len(instances) if has_mask else 1] = True
        with EventStorage():
            torch.manual_seed(0)
            counts.append(roi_counts(model, inputs))
    assert counts[0]["rois"] == counts[1]["rois"]
    assert 0 < counts[1]["masks"] < counts[0]["masks"]


def _process(rank, file, model, batches, results):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{file}", rank=rank, world_size=2
    )
    from detectron2.utils import comm

    if comm._LOCAL_PROCESS_GROUP is None:
        comm._LOCAL_PROCESS_GROUP = torch.distributed.group.WORLD
    parallel = nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)
    trainer = _trainer(parallel, batches[rank], 2)
    _step(trainer)
    torch.save([p.grad for p in model.parameters()], os.path.join(results, f"{rank}.pth"))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes(tmp_path):
    model = Tiny(per_image=True)
    batches = [_images([2, 5, 1, 4], 1), _images([3, 3, 2, 1], 2)]
    torch.multiprocessing.spawn(
        _process, (str(tmp_path / "meet"), model, batches, str(tmp_path)), nprocs=2
    )
    joint, _ = _direct(model, batches[0] + batches[1])
    for rank in range(2):
        gradients = torch.load(tmp_path / f"{rank}.pth")
        for gradient, expected in zip(gradients, joint.values()):
            torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=0)
