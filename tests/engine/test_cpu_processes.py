# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Training on CPUs in several processes, against the same computed in one."""

from __future__ import annotations

import pytest
import torch
from detectron2.engine import DefaultTrainer
from detectron2.modeling import build_model
from detectron2.structures import Keypoints
from detectron2.utils import comm
from torch import nn

from mrcnn_ext.engine import Trainer
from mrcnn_ext.engine import same_start as same_start_module
from mrcnn_ext.engine.cpu_processes import check_cpu_training, parallel_on_cpus
from mrcnn_ext.engine.launch import launch
from mrcnn_ext.engine.same_start import check_same_start
from mrcnn_ext.errors import ConfigError
from tests.engine import launched
from tests.helpers import random_inputs, timm_cfg, train_step
from tests.modeling.test_registered import CASES


@pytest.mark.parametrize(
    ("opts", "processes", "message"),
    [
        (["SOLVER.AMP.ENABLED", True], 1, r"SOLVER\.AMP\.ENABLED is True, .*AUTOCAST: 'bfloat16'"),
        (["MRCNN_EXT.TIMM.NORM", "SyncBN"], 2, r"MRCNN_EXT\.TIMM\.NORM is 'SyncBN'.*2 CPU proc"),
        (["MODEL.FPN.NORM", "nnSyncBN"], 2, r"MODEL\.FPN\.NORM is 'nnSyncBN'.*'naiveSyncBN'"),
        (["SOLVER.IMS_PER_BATCH", 3], 2, r"IMS_PER_BATCH is 3, which 2 .*a multiple of 2"),
        (["SOLVER.IMS_PER_BATCH", 2], 4, r"IMS_PER_BATCH is 2, which 4 .*a multiple of 4"),
    ],
)
def test_what_cpus_cannot_do_is_said_before_anything_is_built(opts, processes, message):
    cfg = timm_cfg("resnet18", fpn=True)
    check_cpu_training(cfg, processes)
    cfg.merge_from_list(opts)
    with pytest.raises(ConfigError, match=message):
        check_cpu_training(cfg, processes)


def test_what_works_is_not_refused():
    cfg = timm_cfg("resnet18", fpn=True)
    cfg.MODEL.RESNETS.NORM = "SyncBN"  # which timm's backbones do not read
    cfg.MODEL.FPN.NORM = "naiveSyncBN"
    check_cpu_training(cfg, 2)
    cfg.MRCNN_EXT.TIMM.NORM = "SyncBN"
    check_cpu_training(cfg, 1)
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.REFERENCE_WORLD_SIZE = 2, 1
    cfg.MRCNN_EXT.TIMM.NORM = "GN"
    check_cpu_training(cfg, 3)  # scaled to 6


def test_one_process_and_gpus_are_left_to_detectron2(monkeypatch):
    built = []
    monkeypatch.setattr(DefaultTrainer, "__init__", lambda _self, cfg: built.append(cfg))
    cfg = timm_cfg("resnet18", fpn=True)
    Trainer(cfg)
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    cfg.MODEL.DEVICE = "cuda"
    Trainer(cfg)
    assert built == [cfg, cfg]


def test_a_model_is_wrapped_for_several_processes_only(monkeypatch):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.SyncBatchNorm(4))
    assert parallel_on_cpus(model, broadcast_buffers=False) is model
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    with pytest.raises(ConfigError, match=r"^1 is a SyncBatchNorm .* 2 CPU processes"):
        parallel_on_cpus(model)


class _Checkpointer:
    def __init__(self, file: str = "") -> None:
        self.file = file

    def has_checkpoint(self) -> bool:
        return bool(self.file)

    def get_checkpoint_file(self) -> str:
        return self.file


def test_machines_that_would_begin_with_other_files(monkeypatch, tmp_path):
    here = tmp_path / "model_0000001.pth"
    here.write_text("")
    others: list = []
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(same_start_module.comm, "all_gather", lambda own: [own, *others])
    others[:] = [("timm://resnet18", True)]
    check_same_start(_Checkpointer(), "timm://resnet18", resume=True)
    others[:] = [("start.pth", True)]
    with pytest.raises(
        ConfigError, match=r"--resume: process 0 goes on from '.*1\.pth', process 1"
    ):
        check_same_start(_Checkpointer(str(here)), "start.pth", resume=True)
    others[:] = [(str(here), False)]
    with pytest.raises(ConfigError, match=r"0000001\.pth: process 1 has no such file"):
        check_same_start(_Checkpointer(), str(here), resume=False)


def test_weights_that_are_not_there():
    with pytest.raises(ConfigError, match=r"no/such\.pth: there is no such file"):
        check_same_start(_Checkpointer(), "no/such.pth", resume=False)


# --------------------------------------------------------------------------------- in other processes


@pytest.mark.slow
def test_gradients_losses_and_files_of_two_processes(tmp_path):
    cfg = launched.shard_cfg(tmp_path)
    torch.manual_seed(0)
    model = build_model(cfg)
    torch.save({"model": model.state_dict()}, tmp_path / "start.pth")
    own, losses = [], []
    for rank in (0, 1):
        model.zero_grad()
        launched.seed_shard(rank, 0)
        losses.append(train_step(model, launched.shard(cfg, rank)))
        own.append(launched.gradients(model))

    launch(launched.train_shards, 2, args=(tmp_path,), device="cpu")

    results = [torch.load(tmp_path / f"rank_{rank}.pth") for rank in (0, 1)]
    assert len(own[0]) > 40
    for name, first in own[0].items():
        mean = (first + own[1][name]) / 2
        for reduced, _ in results:
            torch.testing.assert_close(reduced[name], mean, rtol=1e-4, atol=1e-6)
    for name, value in results[0][1].items():
        assert torch.equal(value, results[1][1][name]), name
    logged = torch.load(tmp_path / "losses.pth")
    for name, value in logged.items():
        expected = sum(float(loss[name]) for loss in losses) / 2
        assert value == pytest.approx(expected, rel=1e-5), name
    assert {"loss_mask", "loss_cls", "loss_rpn_cls"} <= logged.keys()
    assert not (tmp_path / "output_1").exists()


@pytest.mark.slow
@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize("name", [name for _, name in CASES])
def test_every_parameter_takes_part_in_every_step(name, empty):
    """What DistributedDataParallel asks for; also in a batch without objects."""
    cfg = next(make for (_, other), make in CASES.items() if other == name)()
    model = build_model(cfg)
    batch = random_inputs(cfg)
    for inputs in batch:
        points = torch.full((2, cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS, 3), 40.0)
        points[..., 2] = 2
        inputs["instances"].gt_keypoints = Keypoints(points)
        if empty:
            inputs["instances"] = inputs["instances"][torch.zeros(2, dtype=torch.bool)]
    train_step(model, batch)
    trained = [(key, p) for key, p in model.named_parameters() if p.requires_grad]
    assert not [key for key, p in trained if p.grad is None]
