# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Training from a LazyConfig, as Detectron2's lazyconfig_train_net.py does it.

Beyond what that script reads, ``cfg.train`` may have:

==================  ==============================================================================
``accumulate``      dict of ``steps`` and perhaps ``normalizer``, as for ``accumulate``
``first_convolution``  dict of arguments of FirstConvolution, for weights of three channels
``ema``             dict of arguments of EMAHook
``early_stopping``  dict of arguments of EarlyStopping but for the period and the checkpointer
``exact_resume``    True: as MRCNN_EXT.RESUME.EXACT; ``train.seed`` decides what is random
``hooks``           list of LazyCalls; they run after the evaluation and before the writers
``writers``         list of LazyCalls of event writers, in the place of Detectron2's default ones
==================  ==============================================================================
"""

from __future__ import annotations

import logging

import torch
from detectron2.engine import AMPTrainer, HookBase, SimpleTrainer, default_writers, hooks
from detectron2.engine.defaults import create_ddp_model
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from torch import nn

from ..checkpoint import FirstConvolution, SafeCheckpointer
from ..checkpoint.check_weights import check_usable
from ..checkpoint.training_checkpointer import TrainingCheckpointer
from .accumulation import accumulate
from .check_lazy import build_all, build_node, call_with_node, check_lazy
from .cpu_processes import parallel_on_cpus
from .early_stopping import EarlyStopping
from .ema import EMAHook
from .resume import ExactResume, StopOnSignal, make_exact
from .same_start import check_same_start

__all__ = ["evaluate_lazy", "train_lazy"]

logger = logging.getLogger("detectron2")  # as in Detectron2's script


def train_lazy(cfg, *, resume: bool = False, trust_pickle: bool = False) -> None:
    """Train to the end.

    Args:
        cfg: a LazyConfig with the nodes that Detectron2's script names: model, dataloader.train,
            optimizer, lr_multiplier, train; dataloader.test and dataloader.evaluator to evaluate.
        resume: go on from the last checkpoint in train.output_dir.
        trust_pickle: load weights even if that runs code from their file.

    Raises:
        ConfigError: a node is missing, cannot be built, or does not go with CPUs.
    """
    check_lazy(cfg)
    train = cfg.train
    exact = bool(train.get("exact_resume", False))
    model = _build_model(cfg)
    logger.info(f"Model:\n{model}")
    cfg.optimizer.params.model = model
    optimizer = build_node("optimizer", cfg.optimizer)
    loader = build_node("dataloader.train", cfg.dataloader.train)
    if exact:
        loader = make_exact(loader, seed=train.get("seed", -1))
    model = _parallel(model, train.device, **train.get("ddp", {}))
    trainer_class = AMPTrainer if train.amp.enabled else SimpleTrainer
    trainer = trainer_class(model, loader, optimizer)
    if train.get("accumulate") is not None:
        call_with_node("accumulate", train, accumulate, trainer)
    checkpointer_class = TrainingCheckpointer if exact else SafeCheckpointer
    checkpointer = checkpointer_class(
        model, train.output_dir, trust_pickle=trust_pickle, optimizer=optimizer, trainer=trainer
    )
    checkpointer.first_convolution = _first_convolution(train)
    trainer.register_hooks(_hooks(cfg, model, checkpointer, exact))
    check_same_start(checkpointer, train.init_checkpoint, resume)
    checkpointer.resume_or_load(train.init_checkpoint, resume=resume)
    goes_on = resume and checkpointer.has_checkpoint()
    if not goes_on:
        start, key = train.init_checkpoint, "train.init_checkpoint"
        check_usable(checkpointer.checked, start, key, training=True)
    trainer.train(trainer.iter + 1 if goes_on else 0, train.max_iter)


def evaluate_lazy(cfg, *, resume: bool = False, trust_pickle: bool = False):
    """Evaluate train.init_checkpoint, whatever ``resume`` says, as Detectron2's script does.

    Returns:
        results of the main process; None if there is no evaluator.

    Raises:
        ConfigError: a node is missing.
    """
    del resume
    check_lazy(cfg, training=False)
    model = _build_model(cfg)
    model = _parallel(model, cfg.train.device)
    checkpointer = SafeCheckpointer(model, trust_pickle=trust_pickle)
    check_same_start(checkpointer, cfg.train.init_checkpoint, resume=False)
    checkpointer.load(cfg.train.init_checkpoint)
    check_usable(checkpointer.checked, cfg.train.init_checkpoint, "train.init_checkpoint")
    results = _evaluate(cfg, model)
    print(results)
    return results


def _first_convolution(train) -> FirstConvolution:
    if train.get("first_convolution") is None:
        return FirstConvolution()
    return call_with_node("first_convolution", train, FirstConvolution)


def _build_model(cfg) -> nn.Module:
    return build_node("model", cfg.model).to(cfg.train.device)


def _parallel(model: nn.Module, device: str, **kwargs) -> nn.Module:
    if torch.device(device).type == "cpu":
        return parallel_on_cpus(model, **kwargs)
    return create_ddp_model(model, **kwargs)


def _evaluate(cfg, model: nn.Module):
    if "evaluator" not in cfg.dataloader:
        return None
    loader = build_node("dataloader.test", cfg.dataloader.test)
    evaluator = build_node("dataloader.evaluator", cfg.dataloader.evaluator)
    results = inference_on_dataset(model, loader, evaluator)
    print_csv_format(results)
    return results


def _hooks(cfg, model: nn.Module, checkpointer, exact: bool) -> list:
    """In Detectron2's order; see ``trainer.py`` for where ours belong."""
    train, is_main = cfg.train, comm.is_main_process()
    built: list = [
        hooks.IterationTimer(),
        hooks.LRScheduler(scheduler=build_node("lr_multiplier", cfg.lr_multiplier)),
    ]
    own = build_all("train.hooks", train.get("hooks") or (), HookBase)
    built += [hook for hook in own if getattr(hook, "before_checkpoint", False)]
    if train.get("ema") is not None:
        built.append(call_with_node("ema", train, EMAHook, output_dir=train.output_dir))
    if is_main:
        built.append(hooks.PeriodicCheckpointer(checkpointer, **train.checkpointer))
    evaluation = [hooks.EvalHook(train.eval_period, lambda: _evaluate(cfg, model))]
    evaluation += [hook for hook in own if hook not in built]
    if train.get("early_stopping") is not None:
        more = {"eval_period": train.eval_period, "checkpointer": checkpointer}
        evaluation.append(call_with_node("early_stopping", train, EarlyStopping, **more))
    if exact:
        built.append(StopOnSignal(checkpointer))
    built += evaluation
    if exact:
        built.append(ExactResume(checkpointer, evaluation, train.eval_period))
    if is_main:
        if train.get("writers") is None:
            writers = default_writers(train.output_dir, train.max_iter)
        else:
            writers = build_all("train.writers", train.writers, EventWriter)
        built.append(hooks.PeriodicWriter(writers, period=train.log_period))
    return built
