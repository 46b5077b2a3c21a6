# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Train one run of a comparison: from shared weights, resumable; write training.json at the end."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch
from detectron2.engine import AMPTrainer, HookBase, SimpleTrainer, hooks
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import CommonMetricPrinter, JSONWriter
from torch import nn

from ..checkpoint import (
    FirstConvolution,
    SafeCheckpointer,
    last_checkpoint,
    load_weights,
    prune_checkpoints,
)
from ..errors import WeightsError
from ..files import write_json, write_text
from .data import Checksum, PairedLoader, mixed_seed
from .kind import HeadKind
from .kinds import MASK

__all__ = [
    "FINAL",
    "FrozenShell",
    "build_paired_model",
    "load_all_but_head",
    "load_trained",
    "train",
]

FINAL = "model_final.pth"  # the trained weights
_CHECKPOINTS = 10  # in a training; an interruption loses what was trained after the last
_KEPT = 2  # of them: one to go on from if the last is damaged
_LINES = 100  # of metrics.json, for progress


def build_paired_model(cfg, seed: int, kind: HeadKind = MASK) -> nn.Module:
    """Build a model whose random weights outside the compared head do not depend on that head.

    The seed decides the head's own weights. All other weights are those of the same model without
    the head: otherwise a head that draws more random numbers would change the layers built after it.
    """
    seed_all_rng(mixed_seed(seed, 0))
    model = build_model(cfg)
    bare = cfg.clone()
    bare.defrost()
    bare.MODEL[kind.switch] = False
    seed_all_rng(mixed_seed(seed, 0))
    shared = build_model(bare).state_dict()
    own = {key: value for key, value in model.state_dict().items() if key not in shared}
    model.load_state_dict({**shared, **own})
    return model


def load_all_but_head(
    model: nn.Module,
    weights: str,
    *,
    complete: bool,
    kind: HeadKind = MASK,
    trust_pickle: bool = False,
    first_convolution: FirstConvolution | None = None,
) -> None:
    """Load weights into everything but the compared head, whatever the file holds.

    Args:
        weights: anything that Detectron2's checkpointer reads; "" loads nothing.
        complete: require all weights outside the head.
        kind: of that head.
        trust_pickle: load any file, even if that runs code from it.
        first_convolution: as for :func:`load_weights`.

    Raises:
        WeightsError: with ``complete``, a weight is missing, has another shape or is NaN; names it. Or
            the file could run code.
    """
    if not weights:
        return
    own = {k: v.clone() for k, v in model.state_dict().items() if kind.owns(k)}
    checked = load_weights(
        model,
        weights,
        complete=False,
        trust_pickle=trust_pickle,
        first_convolution=first_convolution,
    )
    model.load_state_dict({**model.state_dict(), **own})
    lacking = [key for key in checked.missing if not kind.owns(key)]
    if complete and lacking:
        raise WeightsError(
            f"{weights}: {lacking[0]} is missing or has another shape (as have {len(lacking) - 1} "
            "others); a frozen detector must be complete, and be of the base config."
        )
    broken = [key for key in checked.not_finite if not kind.owns(key)]
    if broken:
        raise WeightsError(
            f"{weights}: {broken[0]} is NaN or infinite (as are {len(broken) - 1} others)."
        )


class FrozenShell(nn.Module):
    """Train only the compared head of a model, and keep a checksum of what that head sees.

    The rest runs as in training (it samples proposals), but without gradients, and with norms and
    dropout as in testing. With ``frozen=False`` the whole model is trained.

    Attributes:
        proposals: checksum of the boxes and classes that reached the head.
    """

    def __init__(
        self, model: nn.Module, proposals: Checksum, frozen: bool, kind: HeadKind = MASK
    ) -> None:
        super().__init__()
        self.model = model
        self.frozen = frozen
        self.kind = kind
        self.proposals = proposals
        for name, parameter in model.named_parameters():
            if frozen and not kind.owns(name):
                parameter.requires_grad_(False)
        kind.head(model).register_forward_pre_hook(self._note)

    def train(self, mode: bool = True) -> FrozenShell:
        super().train(mode)
        if self.frozen:
            self.model.backbone.eval()  # type: ignore[operator,union-attr]
            for name, module in self.model.named_modules():
                # Only leaves: RPN and RoI heads, which hold them, must still sample as in training
                if not self.kind.owns(name) and not list(module.children()):
                    module.eval()
        return self

    def forward(self, batch: list[dict]) -> dict[str, torch.Tensor]:
        losses = self.model(batch)
        if not self.frozen:
            return losses
        return {name: loss for name, loss in losses.items() if loss.requires_grad}

    def _note(self, module: nn.Module, inputs: tuple) -> None:
        if not module.training:
            return
        for instances in inputs[1]:
            self.proposals.add(instances.proposal_boxes.tensor.detach().cpu().numpy())
            self.proposals.add(instances.gt_classes.cpu().numpy())


class _Seconds(HookBase):
    """Time each step without data loading; skip a process's first. Checkpoints keep the times."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self._begun = 0.0

    def before_step(self) -> None:
        self._begun = time.perf_counter()

    def after_step(self) -> None:
        seconds = time.perf_counter() - self._begun
        data = self.trainer.storage.history("data_time").latest()
        if self.trainer.iter > self.trainer.start_iter:
            self.values.append(seconds - float(data))

    def state_dict(self) -> dict:
        return {"values": self.values}

    def load_state_dict(self, state: dict) -> None:
        self.values = list(state["values"])


def train(
    cfg,
    *,
    seed: int,
    detector: str,
    folder: Path,
    frozen: bool,
    kind: HeadKind = MASK,
    trust_pickle: bool = False,
) -> nn.Module:
    """Train to the end, from the last checkpoint that is whole; write training.json.

    A resumed training ends with the same weights as an uninterrupted one, on a CPU bit for bit. A
    damaged checkpoint is said in a line that starts with "warning: ".

    Args:
        cfg: complete config.
        seed: of the run.
        detector: weights of the detector for a frozen one; "" takes MODEL.WEIGHTS.
        folder: of the run.
        frozen: train only the compared head.
        kind: of the compared head.
        trust_pickle: load the given weights even if that runs code from their file.

    Returns:
        the trained model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = build_paired_model(cfg, seed, kind)
    weights = detector or cfg.MODEL.WEIGHTS
    load_all_but_head(
        model,
        weights,
        complete=frozen,
        kind=kind,
        trust_pickle=trust_pickle,
        first_convolution=None if frozen else FirstConvolution.from_config(cfg),
    )
    seen, proposals, seconds = Checksum(), Checksum(), _Seconds()
    before = _weights_checksum(model, kind)
    shell = FrozenShell(model, proposals, frozen, kind)
    optimizer = build_optimizer(cfg, model)
    scheduler = build_lr_scheduler(cfg, optimizer)
    parts: dict = {"optimizer": optimizer, "scheduler": scheduler, "seconds": seconds}
    parts.update(images_seen=seen, proposals_seen=proposals)
    amp = cfg.SOLVER.AMP.ENABLED
    if amp:
        parts["grad_scaler"] = torch.amp.GradScaler("cuda")
    checkpointer = SafeCheckpointer(model, str(folder), **parts)
    last = last_checkpoint(folder, like=model.state_dict(), parts=parts)
    for line in last.warnings:
        print(f"warning: {line}", flush=True)
    if last.file is not None:
        checkpointer.load(str(last.file))
    start, stop = last.start, cfg.SOLVER.MAX_ITER
    kept = prune_checkpoints(folder, _KEPT, below=start)
    _cut_metrics(folder / "metrics.json", start)
    if start < stop:
        loader = PairedLoader(cfg, seed=seed, start=start, stop=stop, seen=seen)
        if amp:
            trainer = AMPTrainer(shell, loader, optimizer, grad_scaler=parts["grad_scaler"])
        else:
            trainer = SimpleTrainer(shell, loader, optimizer)
        period = max(1, stop // _CHECKPOINTS)
        saving = hooks.PeriodicCheckpointer(checkpointer, period, stop, max_to_keep=_KEPT)
        saving.recent_checkpoints = kept  # by processes before this one
        writers = [CommonMetricPrinter(stop), JSONWriter(str(folder / "metrics.json"))]
        trainer.register_hooks(
            [
                hooks.IterationTimer(warmup_iter=0),
                seconds,
                hooks.LRScheduler(optimizer, scheduler),
                saving,
                hooks.PeriodicWriter(writers, period=max(1, min(20, stop // _LINES))),
            ]
        )
        trainer.train(start, stop)
    elif last.file is not None and last.file.name != FINAL:
        checkpointer.save(FINAL.removesuffix(".pth"), iteration=stop - 1)
    write_json(
        folder / "training.json",
        {
            "iterations": stop,
            "weights before": before,
            "weights after": _weights_checksum(model, kind),
            "images seen": seen.value,
            "proposals seen": proposals.value,
            "seconds per iteration": float(np.median(seconds.values)) if seconds.values else None,
            "peak memory": _peak_memory(),
            "peak memory is of": "CUDA" if torch.cuda.is_initialized() else "the process",
            "threads": torch.get_num_threads(),
            "device": cfg.MODEL.DEVICE,
        },
    )
    prune_checkpoints(folder, 1)
    return model


def load_trained(cfg, folder: Path) -> nn.Module:
    """Load the model of a finished training.

    Raises:
        WeightsError: its weights are damaged or NaN.
    """
    model = build_model(cfg)
    load_weights(model, str(folder / FINAL), complete=True)
    return model


def _weights_checksum(model: nn.Module, kind: HeadKind) -> dict[str, int]:
    """Checksums of the compared head's weights and of all others."""
    head = f"{kind.name} head"
    sums = {head: Checksum(), "rest": Checksum()}
    for key, value in model.state_dict().items():
        sums[head if kind.owns(key) else "rest"].add(value.detach().cpu().numpy())
    return {name: checksum.value for name, checksum in sums.items()}


def _cut_metrics(file: Path, start: int) -> None:
    """Drop the lines that the resumed training will write again."""
    if not file.is_file():
        return
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and _iteration(line) < start]
    write_text(file, "".join(kept))


def _iteration(line: str) -> int:
    try:
        return int(json.loads(line).get("iteration", 0))
    except (ValueError, TypeError, AttributeError):
        return sys.maxsize


def _peak_memory() -> int:
    """Peak in bytes: of the GPU's allocator, or else the largest resident size of this process."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
