# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""What tests of ``launch`` run in other processes: these import it by its name."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from detectron2.engine import HookBase
from detectron2.layers import get_norm
from detectron2.utils import comm

from mrcnn_ext.engine import Trainer
from mrcnn_ext.errors import ConfigError
from tests.helpers import random_inputs, timm_cfg


def note(folder: Path) -> None:
    """Write what a process knows of the others."""
    ranks = comm.all_gather(comm.get_rank())
    total = torch.tensor([comm.get_rank() + 1.0])
    dist.all_reduce(total)
    _check_naive_sync_norm()
    words = [comm.get_world_size(), comm.get_local_rank(), comm.get_local_size()]
    words += [torch.get_num_threads(), int(total), *ranks]
    (folder / str(comm.get_rank())).write_text(" ".join(map(str, words)))


def _check_naive_sync_norm() -> None:
    """Detectron2's own is the alternative to SyncBN that messages name: as one norm of all images."""
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.BatchNorm2d(3)(images)[comm.get_rank()]
    ours = get_norm("naiveSyncBN", 3)(images[comm.get_rank()][None])[0]
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def fail(what: str) -> None:
    """Process 1 ends in some way, while 0 waits for it."""
    if comm.get_rank() == 1 or what == "both":
        if what == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "exit":
            sys.exit(7)
        if what == "bug":
            raise KeyError("a bug")
        raise ConfigError("KEY is 1; expected 2.")
    comm.synchronize()


def wait(folder: Path) -> None:
    """Both note their numbers and wait for a signal, upon which they write a file."""
    (folder / f"{comm.get_rank()}.new").write_text(str(os.getpid()))
    (folder / f"{comm.get_rank()}.new").rename(folder / f"{comm.get_rank()}.pid")
    try:
        while True:
            time.sleep(0.05)
    except KeyboardInterrupt:
        (folder / f"{comm.get_rank()}.checkpoint").write_text("")
        raise


def shard_cfg(folder: Path):
    """A model of a second, in the memory format that is not torch's own."""
    cfg = timm_cfg("resnet18", fpn=True)
    cfg.MRCNN_EXT.COMPUTE.CHANNELS_LAST = True
    cfg.DATASETS.TEST = ()
    cfg.SOLVER.IMS_PER_BATCH = 4
    cfg.SOLVER.MAX_ITER = 2
    cfg.SOLVER.WARMUP_ITERS = 0
    cfg.SEED = 3
    cfg.MODEL.WEIGHTS = str(folder / "start.pth")
    cfg.OUTPUT_DIR = str(folder / f"output_{comm.get_rank()}")
    return cfg


def shard(cfg, rank: int) -> list[dict]:
    """The images of a process."""
    return random_inputs(cfg, number=4)[2 * rank : 2 * rank + 2]


def seed_shard(rank: int, step: int) -> None:
    """Random numbers of a process in a step: RoI heads sample."""
    torch.manual_seed(100 * step + rank)


def gradients(model) -> dict[str, torch.Tensor]:
    """By name, without the prefix of DistributedDataParallel."""
    model = getattr(model, "module", model)
    return {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}


class _Shards:
    """A loader of the process's own images, which also seeds what comes after."""

    def __init__(self, cfg) -> None:
        self.cfg, self.rank = cfg, comm.get_rank()

    def __iter__(self):
        for step in range(10):
            seed_shard(self.rank, step)
            yield shard(self.cfg, self.rank)


class _ShardTrainer(Trainer):
    @classmethod
    def build_train_loader(cls, cfg):
        return _Shards(cfg)


def train_shards(folder: Path) -> None:
    """Two steps; every process writes the gradients of the first and its last weights."""
    cfg = shard_cfg(folder)
    trainer = _ShardTrainer(cfg)
    trainer.resume_or_load(resume=False)
    kept: list = []

    class Keep(HookBase):
        def after_step(self) -> None:
            kept.append(gradients(self.trainer.model))
            latest = self.trainer.storage.latest()
            if comm.is_main_process() and not self.trainer.iter:
                losses = {k: v[0] for k, v in latest.items() if k.startswith("loss_")}
                torch.save(losses, folder / "losses.pth")

    trainer.register_hooks([Keep()])
    trainer.train()
    state = {k: v.clone() for k, v in trainer.model.module.state_dict().items()}
    torch.save((kept[0], state), folder / f"rank_{comm.get_rank()}.pth")
    again = _ShardTrainer(cfg)  # what rank 0 wrote fits the wrapped model
    again.checkpointer.load(str(folder / "output_0" / "model_final.pth"))
    for name, value in again.model.module.state_dict().items():
        assert torch.equal(value, state[name]), name


if __name__ == "__main__":
    from mrcnn_ext.engine.launch import launch
    from mrcnn_ext.stop_signals import StopSignals, exit_code

    try:
        with StopSignals():
            launch(wait, 2, args=(Path(sys.argv[1]),), device="cpu")
    except KeyboardInterrupt as stop:
        sys.exit(exit_code(stop))
