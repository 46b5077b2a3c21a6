# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Training put together by config: what ``MRCNN_EXT`` adds to Detectron2's DefaultTrainer.

Each part is a function of what the trainer would do without it, ``own``, the trainer or its class,
and the arguments of that method. :class:`TrainerMixin` calls them for trainers that derive from it,
``mrcnn_ext.tool_hooks`` for those of scripts that know nothing of this package. As long as no key is
set, each gives what ``own`` gives.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable

from detectron2.engine import DefaultTrainer
from detectron2.engine import hooks as d2_hooks

from ..checkpoint import FirstConvolution, SafeCheckpointer
from ..checkpoint.training_checkpointer import TrainingCheckpointer
from ..config.check_data import set_data_keys
from ..config.check_training import set_training_keys
from ..data.train_loader import test_loader_from_config, train_loader_from_config
from ..errors import ConfigError
from ..evaluation.build import build_evaluator
from ..evaluation.default_evaluators import default_evaluator
from .accumulation import accumulate
from .cpu_processes import CPUProcessesMixin
from .early_stopping import EarlyStopping
from .ema import EMAHook
from .evaluation_hooks import build_evaluation_hooks, warn_of_keys_in_vain
from .optimizer import build_optimizer, optimizer_keys_set
from .picture_hook import build_picture_hook
from .resume import ExactResume, StopOnSignal, make_exact
from .running import FOLLOWS
from .schedule import build_lr_scheduler, schedule_keys_set
from .writers import build_writers

__all__ = ["CLASS_PARTS", "INSTANCE_PARTS", "Trainer", "TrainerMixin"]

_PERIOD = 20  # of Detectron2's writers


def _train_loader(own: Callable, trainer_class: type, cfg, *args, **kwargs):
    keys = set_data_keys(cfg)
    if keys and not _is_detectron2s(own, "build_train_loader"):
        raise _other_loader(keys[0], trainer_class, "build_train_loader")
    loader = train_loader_from_config(cfg) if keys else own(cfg, *args, **kwargs)
    return make_exact(loader, seed=cfg.SEED) if cfg.MRCNN_EXT.RESUME.EXACT else loader


def _test_loader(own: Callable, trainer_class: type, cfg, dataset_name: str, *args, **kwargs):
    if not cfg.MRCNN_EXT.DATA.BANDS:
        return own(cfg, dataset_name, *args, **kwargs)
    if not _is_detectron2s(own, "build_test_loader"):
        raise _other_loader("MRCNN_EXT.DATA.BANDS", trainer_class, "build_test_loader")
    return test_loader_from_config(cfg, dataset_name)


def _other_loader(key: str, trainer_class: type, method: str) -> ConfigError:
    return ConfigError(
        f"{key} is set, but {trainer_class.__module__}.{trainer_class.__qualname__} has a {method} of "
        "its own, which decides what a sample is; expected one of the two."
    )


def _is_detectron2s(own: Callable, method: str) -> bool:
    # A method, or a partial of its function
    function = getattr(own, "__func__", getattr(own, "func", own))
    return function is getattr(DefaultTrainer, method).__func__


def _optimizer(own: Callable, _cls: type, cfg, model):
    return build_optimizer(cfg, model) if optimizer_keys_set(cfg) else own(cfg, model)


def _lr_scheduler(own: Callable, _cls: type, cfg, optimizer):
    return build_lr_scheduler(cfg, optimizer) if schedule_keys_set(cfg) else own(cfg, optimizer)


def _evaluator(own: Callable, _cls: type, cfg, dataset_name: str, *args, **kwargs):
    def build_own():
        try:
            return own(cfg, dataset_name, *args, **kwargs)
        except NotImplementedError:  # DefaultTrainer's
            return default_evaluator(cfg, dataset_name, *args, **kwargs)

    return build_evaluator(cfg, dataset_name, build_own, *args, **kwargs)


def _writers(own: Callable, trainer: DefaultTrainer) -> list:
    return build_writers(trainer.cfg, own(), trainer.max_iter)


def _hooks(own: Callable, trainer: DefaultTrainer) -> list:
    """The script's hooks, with ours in their places among them.

    Order: what changes the model before what saves it, evaluation after that, as in Detectron2;
    writers come last, so that they see what the evaluation stored.
    """
    cfg = trainer.cfg
    keys = cfg.MRCNN_EXT
    if keys.SOLVER.ACCUMULATE > 1:
        accumulate(
            trainer, steps=keys.SOLVER.ACCUMULATE, normalizer=keys.SOLVER.ACCUMULATE_NORMALIZER
        )
    if set_training_keys(cfg) or (
        keys.DATA.BANDS and not isinstance(trainer.checkpointer, SafeCheckpointer)
    ):
        # Before the script's hooks are built: some keep a reference to the checkpointer. That of
        # Detectron2 0.6 saves no optimizer, and neither writes whole files only.
        trainer.checkpointer = TrainingCheckpointer.of_trainer(
            trainer.model, cfg.OUTPUT_DIR, weakref.proxy(trainer), keep=keys.RESUME.KEEP
        )
    if isinstance(trainer.checkpointer, SafeCheckpointer):
        trainer.checkpointer.first_convolution = FirstConvolution.from_config(cfg)
    hooks = [hook for hook in own() if hook is not None]
    if keys.EMA.ENABLED:
        first = (d2_hooks.PeriodicCheckpointer, d2_hooks.EvalHook)  # the former on rank 0 alone
        _insert_before(hooks, first, [_moving_average(cfg)])
    warn_of_keys_in_vain(cfg)
    if keys.EVALUATION.ENABLED:
        _insert_before_writers(hooks, build_evaluation_hooks(trainer))
    if keys.EARLY_STOPPING.METRIC:
        _insert_before_writers(hooks, [_early_stopping(cfg)])
    if keys.RESUME.EXACT:
        evaluation = _from_evaluation_on(hooks)
        resume = ExactResume(trainer.checkpointer, evaluation, cfg.TEST.EVAL_PERIOD)
        _insert_before_writers(hooks, [resume])
        _insert_before(hooks, d2_hooks.EvalHook, [StopOnSignal(trainer.checkpointer)])
    pictures = build_picture_hook(cfg, trainer.model)
    if pictures is not None:
        _insert_before_writers(hooks, [pictures])
    if keys.LOG.PERIOD != _PERIOD:
        hooks = [_with_period(hook, keys.LOG.PERIOD) for hook in hooks]
    return hooks


def _moving_average(cfg) -> EMAHook:
    keys = cfg.MRCNN_EXT.EMA
    return EMAHook(
        decay=keys.DECAY, warmup=keys.WARMUP, evaluate=keys.EVALUATE, output_dir=cfg.OUTPUT_DIR
    )


def _early_stopping(cfg) -> EarlyStopping:
    keys = cfg.MRCNN_EXT.EARLY_STOPPING
    return EarlyStopping(
        cfg.TEST.EVAL_PERIOD,
        keys.METRIC,
        mode=keys.MODE,
        patience=keys.PATIENCE,
        min_delta=keys.MIN_DELTA,
    )


def _from_evaluation_on(hooks: list) -> list:
    """EvalHook and what comes after it, without writers."""
    first = next((i for i, h in enumerate(hooks) if isinstance(h, d2_hooks.EvalHook)), len(hooks))
    return [h for h in hooks[first:] if not isinstance(h, d2_hooks.PeriodicWriter)]


def _insert_before(hooks: list, kinds, new: list) -> None:
    """Before the first hook of these kinds; at the end if there is none."""
    place = next((i for i, hook in enumerate(hooks) if isinstance(hook, kinds)), len(hooks))
    hooks[place:place] = new


def _insert_before_writers(hooks: list, new: list) -> None:
    _insert_before(hooks, d2_hooks.PeriodicWriter, new)


def _with_period(hook, period: int):
    if type(hook) is not d2_hooks.PeriodicWriter:
        return hook
    return d2_hooks.PeriodicWriter(hook._writers, period=period)


# Method of the class -> part that follows the config.
CLASS_PARTS: dict[str, Callable] = {
    "build_train_loader": _train_loader,
    "build_test_loader": _test_loader,
    "build_optimizer": _optimizer,
    "build_lr_scheduler": _lr_scheduler,
    "build_evaluator": _evaluator,
}
# Method of an instance -> part.
INSTANCE_PARTS: dict[str, Callable] = {"build_hooks": _hooks, "build_writers": _writers}


class TrainerMixin:
    """Makes a trainer follow ``MRCNN_EXT``: put it before DefaultTrainer, or your subclass of it.

    ``class MyTrainer(TrainerMixin, DefaultTrainer)``. Methods of MyTrainer that call ``super()`` get
    what the config asks for. See docs/training.md.
    """

    @classmethod
    def build_train_loader(cls, cfg):
        return _train_loader(super().build_train_loader, cls, cfg)  # type: ignore[misc]

    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        own = super().build_test_loader  # type: ignore[misc]
        return _test_loader(own, cls, cfg, dataset_name)

    @classmethod
    def build_optimizer(cls, cfg, model):
        return _optimizer(super().build_optimizer, cls, cfg, model)  # type: ignore[misc]

    @classmethod
    def build_lr_scheduler(cls, cfg, optimizer):
        return _lr_scheduler(super().build_lr_scheduler, cls, cfg, optimizer)  # type: ignore[misc]

    @classmethod
    def build_evaluator(cls, cfg, dataset_name, *args, **kwargs):
        own = super().build_evaluator  # type: ignore[misc]
        return _evaluator(own, cls, cfg, dataset_name, *args, **kwargs)

    def build_hooks(self):
        return _hooks(super().build_hooks, self)  # type: ignore[misc, arg-type]

    def build_writers(self):
        return _writers(super().build_writers, self)  # type: ignore[misc, arg-type]


setattr(TrainerMixin, FOLLOWS, True)


class Trainer(CPUProcessesMixin, TrainerMixin, DefaultTrainer):
    """Detectron2's DefaultTrainer, put together by config."""
