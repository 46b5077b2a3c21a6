# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""A training of a second, for tests of what is around the model."""

from __future__ import annotations

import torch
from detectron2.engine import DefaultTrainer
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn

from mrcnn_ext.modeling.run_setup import set_up_run
from tests.helpers import small_cfg


@META_ARCH_REGISTRY.register()
class MrcnnExtTestsLinear(nn.Module):
    """Losses of a linear layer on each image's mean colours, with random numbers of its own."""

    def __init__(self, cfg) -> None:
        super().__init__()
        set_up_run(cfg)
        self.layer = nn.Linear(3, 1)
        self.device = torch.device("cpu")

    def forward(self, batch: list[dict]):
        colours = torch.stack([item["image"].float().mean(dim=(1, 2)) for item in batch]) / 255
        if not self.training:
            raise NotImplementedError
        noise = torch.rand(len(batch), 1)
        return {"loss": ((self.layer(colours) - noise) ** 2).mean()}


class Tiny(nn.Module):
    """One weight, which training moves from 0 to 1."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, images):
        return {"loss_a": (self.weight - 1).square().sum()}


def linear_cfg(tmp_path, **keys):
    """Its config; ``keys`` are of MRCNN_EXT, with "__" for "."."""
    cfg = small_cfg()
    cfg.MODEL.META_ARCHITECTURE = "MrcnnExtTestsLinear"
    cfg.OUTPUT_DIR = str(tmp_path)
    cfg.DATASETS.TEST = ()
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.MRCNN_EXT.SHAPES.NUM_TRAIN, cfg.MRCNN_EXT.SHAPES.IMAGE_SIZE = 7, 64
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (32, 48), 64
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, cfg.SOLVER.CHECKPOINT_PERIOD = 2, 6, 2
    cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.BASE_LR, cfg.SEED = 2, 0.1, 5
    cfg.TEST.EVAL_PERIOD = 0
    for key, value in keys.items():
        cfg.MRCNN_EXT.merge_from_list([key.replace("__", "."), value])
    return cfg


class LossTrainer(DefaultTrainer):
    """Keeps the losses of all its steps."""

    def run_step(self):
        super().run_step()
        self.losses = [*getattr(self, "losses", ()), self.storage.latest()["total_loss"][0]]

    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        return None
