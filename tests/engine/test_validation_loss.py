# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Losses on validation data leave no trace; the best checkpoint survives a resume."""

from __future__ import annotations

import json
import random
import types

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from mrcnn_ext.data import shapes
from mrcnn_ext.engine import (
    BestCheckpointer,
    ValidationLossHook,
    build_validation_loader,
    validation_losses,
)
from mrcnn_ext.errors import ConfigError
from tests.helpers import random_inputs, timm_cfg, train_step


@pytest.fixture
def cfg():
    cfg = timm_cfg("resnet18", fpn=True)
    cfg.MRCNN_EXT.TIMM.NORM = "BN"
    cfg.MRCNN_EXT.TIMM.DROP_PATH_RATE = 0.2
    return cfg


@pytest.fixture
def model(cfg):
    torch.manual_seed(0)
    return build_model(cfg)


def _state(model):
    return (
        {name: value.clone() for name, value in model.state_dict().items()},
        [module.training for module in model.modules()],
    )


@pytest.mark.parametrize("training", [True, False])
def test_nothing_is_changed(cfg, model, training):
    model.train(training)
    model.roi_heads.eval()  # some part that its user froze
    weights, modes = _state(model)
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    expected = torch.rand(1), np.random.rand(), random.random()
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    with EventStorage() as storage:
        losses = validation_losses(model, [random_inputs(cfg)])
        assert not storage.latest()  # what heads count in training is not training's here
    assert (torch.rand(1), np.random.rand(), random.random()) == expected
    after, modes_after = _state(model)
    assert modes_after == modes
    assert all(torch.equal(after[name], weights[name]) for name in weights)
    assert all(parameter.grad is None for parameter in model.parameters())
    names = {"loss_cls", "loss_box_reg", "loss_mask", "loss_rpn_cls", "loss_rpn_loc"}
    assert set(losses) == names | {"total_loss"}
    assert losses["total_loss"] == pytest.approx(sum(losses[name] for name in names))


def test_values_repeat_and_are_means_over_images(cfg, model):
    images = random_inputs(cfg, number=3)
    together = validation_losses(model, [images[:1], images[1:2]])
    assert together == validation_losses(model, [images[:1], images[1:2]])
    # One at a time: sampling starts from the same seed, so the first image's losses repeat.
    first = validation_losses(model, images[:1] and [images[:1]])
    assert first["loss_mask"] > 0
    with EventStorage(), torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model.train()
        model.backbone.eval()
        direct = {name: float(value) for name, value in model(images[:1]).items()}
    for name, value in direct.items():
        assert first[name] == pytest.approx(value, rel=1e-6)


def test_the_storage_gets_them_as_often_as_is_evaluated(cfg, model):
    loaders = []

    def loader():
        loaders.append(1)
        return [random_inputs(cfg, number=1)]

    hook = ValidationLossHook(2, model, loader)
    hook.trainer = types.SimpleNamespace(iter=0, max_iter=4)
    written = {}
    with EventStorage() as storage:
        hook.trainer.storage = storage
        for hook.trainer.iter in range(4):
            storage.iter = hook.trainer.iter
            train_step(model, random_inputs(cfg, number=1))
            model.zero_grad()
            hook.after_step()
            if hook.trainer.iter == 3:
                hook.after_train()
            value, iteration = storage.latest().get("validation/loss_mask", (None, None))
            written[iteration] = value
    assert set(written) == {None, 1, 3}
    assert loaders == [1]


def test_the_loader_has_ground_truth_at_the_size_of_testing(cfg):
    shapes.configure_builtin_shapes(num_train=2, num_val=2, image_size=96)
    try:
        cfg.INPUT.MIN_SIZE_TEST = 64
        cfg.DATALOADER.NUM_WORKERS = 0
        batches = list(build_validation_loader(cfg, "mrcnn_ext_shapes_val"))
    finally:
        shapes.configure_builtin_shapes()
    assert len(batches) == 2
    for batch in batches:
        assert min(batch[0]["image"].shape[1:]) == 64
        assert batch[0]["instances"].has("gt_masks")


def test_the_best_checkpoint_is_known_after_a_resume(tmp_path):
    saved = []
    checkpointer = types.SimpleNamespace(
        save_dir=str(tmp_path), save=lambda name, iteration: saved.append(iteration)
    )

    def run(start, values):
        hook = BestCheckpointer(1, checkpointer, "segm/AP")
        hook.trainer = types.SimpleNamespace(start_iter=start, max_iter=100)
        with EventStorage(start) as storage:
            hook.trainer.storage = storage
            hook.before_train()
            for iteration, value in enumerate(values, start):
                hook.trainer.iter = storage.iter = iteration
                storage.put_scalar("segm/AP", value, smoothing_hint=False)
                hook.after_step()

    run(0, [float("nan"), 3.0, 5.0, 4.0])
    assert saved == [1, 2]
    assert json.loads((tmp_path / "model_best.json").read_text()) == {
        "metric": "segm/AP",
        "value": 5.0,
        "iteration": 2,
    }
    run(4, [4.5, 6.0])
    assert saved == [1, 2, 5]
    run(0, [1.0])  # a new training in the same folder
    assert saved == [1, 2, 5, 0]


@pytest.mark.parametrize(
    ("metric", "results", "words"),
    [
        (
            "seg/AP",
            {"bbox": {"AP": 1.0}, "segm": {"AP": 2.0}},
            "similar: segm/AP; there are: bbox/",
        ),
        (
            "segm/AP",
            {"a": {"segm": {"AP": 1.0}}, "b": {"segm": {"AP": 2.0}}},
            "a/segm/AP, b/segm/AP",
        ),
        ("segm/AP", {"segm": {"AP": 1.0}}, None),
        ("segm/AP", {"bbox": {"AP": float("nan")}}, None),  # nothing was found yet
        ("segm/AP", {}, None),  # the test sets have no annotations
    ],
)
def test_a_best_metric_that_does_not_exist(tmp_path, metric, results, words):
    saved = []
    checkpointer = types.SimpleNamespace(
        save_dir=str(tmp_path), save=lambda name, iteration: saved.append(iteration)
    )
    hook = BestCheckpointer(1, checkpointer, metric)
    hook.trainer = types.SimpleNamespace(iter=0, start_iter=0, max_iter=9)
    hook.trainer._last_eval_results = results
    with EventStorage() as storage:
        hook.trainer.storage = storage
        storage.put_scalars(**flatten_results_dict(results), smoothing_hint=False)
        if words is None:
            hook.after_step()
            return
        with pytest.raises(ConfigError, match=rf"BEST_METRIC is '{metric}'.*{words}"):
            hook.after_step()
        hook.after_train()  # which Detectron2's trainer calls after an error, too
    assert saved == []


@pytest.mark.parametrize("filter_empty", [True, False])
def test_test_sets_without_annotations_are_left_out_with_one_warning(
    cfg, model, caplog, filter_empty
):
    names = ["mrcnn_ext_test_no_key", "mrcnn_ext_test_crowds"]
    image = {"file_name": "none.jpg", "image_id": 1, "height": 9, "width": 9}
    crowd = {"iscrowd": 1, "bbox": [1, 1, 2, 2], "bbox_mode": 1, "category_id": 0}
    DatasetCatalog.register(names[0], lambda: [dict(image, annotations=[])])
    DatasetCatalog.register(names[1], lambda: [dict(image, annotations=[crowd])])
    shapes.configure_builtin_shapes(num_train=2, num_val=2, image_size=96)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = filter_empty
    try:
        some = build_validation_loader(cfg, ("mrcnn_ext_shapes_val", *names))
        assert len(list(some)) == 2
        assert caplog.text.count("the validation loss leaves it out") == 1
        assert all(name in caplog.text for name in names)
        caplog.clear()
        hook = ValidationLossHook(1, model, lambda: build_validation_loader(cfg, tuple(names)))
        hook.trainer = types.SimpleNamespace(iter=0, max_iter=4)
        with EventStorage() as hook.trainer.storage:
            for hook.trainer.iter in range(3):
                hook.after_step()
            assert hook.trainer.storage.latest() == {}
        assert caplog.text.count("WARNING") == 1
        assert "the validation loss is not computed" in caplog.text
    finally:
        shapes.configure_builtin_shapes()
        for name in names:
            DatasetCatalog.pop(name)
