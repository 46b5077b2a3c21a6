# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Samplers and schedules that Detectron2 does not know: one error before data are read."""

from __future__ import annotations

import pytest
from detectron2.data import build_detection_train_loader
from detectron2.engine import DefaultTrainer
from detectron2.solver import build_lr_scheduler

from mrcnn_ext.config.check_solver import check_sampler_name, check_schedule_name
from mrcnn_ext.engine import Trainer, TrainerMixin
from mrcnn_ext.errors import ConfigError
from mrcnn_ext.train import main
from tests.engine.training_cases import LossTrainer, linear_cfg

SAMPLER = r"DATALOADER\.SAMPLER_TRAIN is 'Repeat'; expected 'TrainingSampler' or 'RepeatFactorTrain"
SCHEDULE = r"SOLVER\.LR_SCHEDULER_NAME is 'Poly'; expected 'WarmupMultiStepLR' or 'WarmupCosineLR'"


class _Derived(TrainerMixin, LossTrainer):
    pass


@pytest.mark.parametrize("trainer", [DefaultTrainer, LossTrainer, Trainer, _Derived])
def test_an_unknown_name_is_one_error(tmp_path, trainer, monkeypatch):
    def read(*_, **__):
        raise AssertionError("data were read")

    monkeypatch.setattr("detectron2.data.DatasetCatalog.get", read)
    cfg = linear_cfg(tmp_path)
    cfg.DATALOADER.SAMPLER_TRAIN = "Repeat"
    with pytest.raises(ConfigError, match=SAMPLER):
        trainer(cfg)
    cfg = linear_cfg(tmp_path)
    cfg.SOLVER.LR_SCHEDULER_NAME = "Poly"
    with pytest.raises(ConfigError, match=SCHEDULE):
        trainer(cfg)


@pytest.mark.parametrize("period", [20, 1])  # 1: a key that extends the script's class
def test_a_script_may_know_names_of_its_own(tmp_path, period):
    class Script(LossTrainer):
        @classmethod
        def build_train_loader(cls, cfg):
            assert cfg.DATALOADER.SAMPLER_TRAIN == "Repeat"
            cfg = cfg.clone()
            cfg.defrost()
            cfg.DATALOADER.SAMPLER_TRAIN = "TrainingSampler"
            return build_detection_train_loader(cfg)

        @classmethod
        def build_lr_scheduler(cls, cfg, optimizer):
            assert cfg.SOLVER.LR_SCHEDULER_NAME == "Poly"
            cfg = cfg.clone()
            cfg.defrost()
            cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupCosineLR"
            return build_lr_scheduler(cfg, optimizer)

    cfg = linear_cfg(tmp_path)
    cfg.MRCNN_EXT.LOG.PERIOD = period
    cfg.DATALOADER.SAMPLER_TRAIN, cfg.SOLVER.LR_SCHEDULER_NAME = "Repeat", "Poly"
    for _ in range(2):  # built twice, it is extended already
        Script(cfg)


def test_a_script_that_was_extended_is_still_checked(tmp_path):
    class Script(LossTrainer):
        pass

    cfg = linear_cfg(tmp_path)
    cfg.MRCNN_EXT.LOG.PERIOD = 1
    Script(cfg)
    cfg.DATALOADER.SAMPLER_TRAIN = "Repeat"
    with pytest.raises(ConfigError, match=SAMPLER):
        Script(cfg)


def test_our_command_says_it_before_anything_is_built(tmp_path, capsys):
    command = ["--config-file", "Shapes/mask_rcnn_Lite0_FPN.yaml", "OUTPUT_DIR", str(tmp_path)]
    assert main([*command, "MODEL.WEIGHTS", "", "SOLVER.LR_SCHEDULER_NAME", "Poly"]) != 0
    assert "SOLVER.LR_SCHEDULER_NAME is 'Poly'; expected" in capsys.readouterr().err


def test_numbers_of_detectron2s_samplers(tmp_path):
    cfg = linear_cfg(tmp_path)
    cfg.DATALOADER.REPEAT_THRESHOLD = -1.0
    check_sampler_name(cfg)  # which nobody reads
    cfg.DATALOADER.SAMPLER_TRAIN = "RepeatFactorTrainingSampler"
    with pytest.raises(ConfigError, match=r"REPEAT_THRESHOLD is -1\.0; expected a number, at le"):
        check_sampler_name(cfg)
    cfg.DATALOADER.SAMPLER_TRAIN = "RandomSubsetTrainingSampler"
    cfg.DATALOADER.RANDOM_SUBSET_RATIO = 0.0
    with pytest.raises(ConfigError, match=r"RANDOM_SUBSET_RATIO is 0\.0; expected"):
        check_sampler_name(cfg)


def test_names_of_the_main_branch_need_its_keys(tmp_path):
    cfg = linear_cfg(tmp_path)
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupStepWithFixedGammaLR"
    if "NUM_DECAYS" in cfg.SOLVER:
        check_schedule_name(cfg)
    else:
        with pytest.raises(ConfigError, match="LR_SCHEDULER_NAME"):
            check_schedule_name(cfg)
    cfg.MRCNN_EXT.SOLVER.SCHEDULE = "cosine"
    check_schedule_name(cfg)  # which nobody reads then
