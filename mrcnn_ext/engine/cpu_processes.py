# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Training on CPUs, in one process or several: what Detectron2's trainer needs another way for."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterator

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import DefaultTrainer, SimpleTrainer, TrainerBase
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import ConfigError

__all__ = ["CPUProcessesMixin", "check_cpu_training", "check_sync_norms", "parallel_on_cpus"]

# Values of norm keys that become torch's SyncBatchNorm, which has no CPU code.
_GPU_NORMS = ("SyncBN", "nnSyncBN")
_NORMS_THAT_WORK = "expected 'naiveSyncBN', 'BN', 'GN' or 'FrozenBN'"


class CPUProcessesMixin:
    """Lets a DefaultTrainer train in several processes without GPUs.

    DefaultTrainer gives DistributedDataParallel the ids of GPUs, also where the model is on the CPU,
    which is an error. If MODEL.DEVICE is "cpu" and there are several processes, this puts the same
    parts together without them. Otherwise it is DefaultTrainer's.
    """

    def __init__(self, cfg) -> None:
        """
        Args:
            cfg: as for DefaultTrainer.

        Raises:
            ConfigError: a key asks for what CPUs cannot do; see :func:`check_cpu_training`.
        """
        if torch.device(cfg.MODEL.DEVICE).type != "cpu" or comm.get_world_size() == 1:
            super().__init__(cfg)  # type: ignore[call-arg]
            return
        assert isinstance(self, DefaultTrainer)
        TrainerBase.__init__(self)
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):
            setup_logger()
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        check_cpu_training(cfg, comm.get_world_size())
        # In DefaultTrainer's order: each takes random numbers.
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        loader = self.build_train_loader(cfg)
        model = parallel_on_cpus(model, broadcast_buffers=False)
        self._trainer = SimpleTrainer(model, loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = DetectionCheckpointer(
            model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self)
        )
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())


def parallel_on_cpus(model: nn.Module, **kwargs) -> nn.Module:
    """Wrap a model on the CPU for several processes: gradients are the mean of the processes' own.

    Every parameter that is trained must take part in every step, as on GPUs. All models of this
    package do that. For one that does not, pass ``find_unused_parameters=True``.

    Args:
        model: on the CPU.
        kwargs: of DistributedDataParallel; device_ids are left out.

    Returns:
        the model itself if there is one process.

    Raises:
        ConfigError: it has norms that work on GPUs only.
    """
    if comm.get_world_size() == 1:
        return model
    check_sync_norms(model)
    kwargs.pop("device_ids", None)
    if kwargs.pop("fp16_compression", False):
        logging.getLogger("detectron2." + __name__).warning(
            "fp16_compression is left out: CPU processes exchange gradients as they are."
        )
    return DistributedDataParallel(model, **kwargs)


def check_sync_norms(model: nn.Module) -> None:
    """Check that no norm of a model needs a GPU, in several processes.

    Raises:
        ConfigError: one does; names it.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.SyncBatchNorm):
            raise ConfigError(
                f"{name} is a SyncBatchNorm ('SyncBN'), which works on GPUs only, but the training "
                f"runs in {comm.get_world_size()} CPU processes; {_NORMS_THAT_WORK}."
            )


def check_cpu_training(cfg, num_processes: int) -> None:
    """Check a config for a training on CPUs, before anything is built.

    Args:
        cfg: with MODEL.DEVICE "cpu".
        num_processes: of all machines together.

    Raises:
        ConfigError: mixed precision of GPUs, SyncBN in several processes, or a batch that cannot be
            shared between them. Names the key.
    """
    if cfg.SOLVER.AMP.ENABLED:
        raise ConfigError(
            "SOLVER.AMP.ENABLED is True, but MODEL.DEVICE is 'cpu', and Detectron2's mixed precision "
            "works on GPUs only; expected False. MRCNN_EXT.COMPUTE.AUTOCAST: 'bfloat16' computes in "
            "half precision on CPUs."
        )
    if num_processes <= 1:
        return
    for key, value in _norms(cfg):
        if value in _GPU_NORMS:
            raise ConfigError(
                f"{key} is '{value}', which works on GPUs only, but the training runs in "
                f"{num_processes} CPU processes; {_NORMS_THAT_WORK}."
            )
    batch, reference = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.REFERENCE_WORLD_SIZE
    scaled = round(batch * num_processes / reference) if reference else batch
    if scaled % num_processes or scaled < num_processes:
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH is {scaled}, which {num_processes} processes (--num-gpus times "
            f"--num-machines) cannot share; expected a multiple of {num_processes}."
        )


# Key -> whether a config's model has norms by it. Others are found when the model is built.
_NORM_KEYS: dict[str, Callable] = {
    "MODEL.RESNETS.NORM": lambda model: "resnet" in model.BACKBONE.NAME,
    "MODEL.FPN.NORM": lambda model: "fpn" in model.BACKBONE.NAME,
    "MODEL.ROI_BOX_HEAD.NORM": lambda model: bool(model.ROI_BOX_HEAD.NAME),
    "MODEL.ROI_MASK_HEAD.NORM": lambda model: model.MASK_ON,
    "MRCNN_EXT.TIMM.NORM": lambda model: "timm" in model.BACKBONE.NAME,
    "MRCNN_EXT.KEYPOINT_HEAD.NORM": lambda model: model.KEYPOINT_ON,
}


def _norms(cfg) -> Iterator[tuple[str, object]]:
    for key, is_used in _NORM_KEYS.items():
        node, *names = key.split(".")
        value = cfg[node]
        for name in names:
            value = value[name]
        if is_used(cfg.MODEL):
            yield key, value
