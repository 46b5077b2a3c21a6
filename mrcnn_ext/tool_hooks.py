# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Training and evaluation by config for scripts that know nothing of this package.

Optimizers, loaders, evaluators, hooks and writers have no registry in Detectron2: a script's own
trainer class makes them. That class, of the script that runs, gets methods that call its own and
follow ``MRCNN_EXT``: those of :class:`~mrcnn_ext.engine.TrainerMixin`. Detectron2's classes stay as
they are, and so does the script's class as long as no key asks for more.
"""

from __future__ import annotations

import functools
import logging
import sys

from detectron2.engine import DefaultTrainer

from .config.check_data import set_data_keys
from .config.check_training import set_training_keys
from .engine.running import FOLLOWS, check_followed, trainer_being_built
from .engine.trainer import CLASS_PARTS, INSTANCE_PARTS
from .evaluation.build import replaces_evaluators

__all__ = ["extend_running_tool"]

# Detectron2's tools print what is logged below its own name.
logger = logging.getLogger("detectron2." + __name__)


def extend_running_tool(cfg) -> list[type]:
    """Make the keys of training, its data and evaluation work in the script that runs.

    Calling it again changes nothing.

    Returns:
        Its trainer classes: subclasses of DefaultTrainer that its main module defines, and the class
        of the trainer that is being built.

    Raises:
        ConfigError: a key of training is set, and the trainer that is being built is Detectron2's own.
    """
    training = bool(set_training_keys(cfg) or set_data_keys(cfg))
    if not training and not replaces_evaluators(cfg):
        return []
    found = _trainer_classes()
    if not found and cfg.MRCNN_EXT.EVALUATION.ENABLED:
        logger.warning(
            "MRCNN_EXT.EVALUATION.ENABLED is on, but the script that runs defines no subclass of "
            "DefaultTrainer, so that there is nothing to add evaluation to. Train with "
            "mrcnn_ext.engine.Trainer, or derive your trainer from mrcnn_ext.engine.TrainerMixin; in a "
            "LazyConfig, set dataloader.evaluator (docs/evaluation.md)."
        )
    for trainer_class in found:
        # Looked for in all of them: what a subclass inherits is extended already.
        if not getattr(trainer_class, FOLLOWS, False):
            _extend(trainer_class)
    check_followed(cfg)
    return found


def _trainer_classes() -> list[type]:
    main = sys.modules.get("__main__")
    candidates = [
        value
        for value in vars(main).values()
        if isinstance(value, type)
        and value.__module__ in ("__main__", "__mp_main__")  # the latter in spawned processes
    ]
    trainer = trainer_being_built()
    if trainer is not None:
        candidates.append(type(trainer))
    classes = {
        cls
        for cls in candidates
        if issubclass(cls, DefaultTrainer) and not cls.__module__.startswith("detectron2.")
    }
    return sorted(classes, key=lambda cls: len(cls.__mro__))  # parents first


def _extend(trainer_class: type) -> None:
    for name, part in CLASS_PARTS.items():
        own = getattr(trainer_class, name).__func__
        setattr(trainer_class, name, classmethod(_after(part, own)))
    for name, part in INSTANCE_PARTS.items():
        setattr(trainer_class, name, _after(part, getattr(trainer_class, name)))
    setattr(trainer_class, FOLLOWS, True)


def _after(part, own):
    """A method that calls ``part`` with the script's own method, bound, and its arguments."""

    @functools.wraps(own)
    def method(self, *args, **kwargs):
        return part(functools.partial(own, self), self, *args, **kwargs)

    return method
