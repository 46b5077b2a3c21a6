# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Which trainer is being built right now, and whether it follows this package's keys of training."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from detectron2.engine import DefaultTrainer, TrainerBase

from ..config.check_data import set_data_keys
from ..config.check_training import set_training_keys
from ..errors import ConfigError

__all__ = [
    "FOLLOWS",
    "check_followed",
    "has_detectron2s",
    "running_methods",
    "trainer_being_built",
]

# Attribute of trainer classes that follow the keys of training.
FOLLOWS = "_mrcnn_ext_follows"


def trainer_being_built() -> TrainerBase | None:
    """The trainer whose ``__init__`` is running; None: the model is built for something else.

    Neither a config nor a model's arguments say what a model is built for; the call stack does.
    Predicting and evaluating need no training set, and follow no key of training.
    """
    for name, found in running_methods():
        if name == "__init__" and isinstance(found, TrainerBase):
            return found
    return None


def has_detectron2s(trainer: object, method: str) -> bool:
    """Whether a class method of a trainer is DefaultTrainer's, perhaps extended by this package."""
    for cls in type(trainer).__mro__:
        own = vars(cls).get(method)
        if own is not None and not cls.__module__.startswith("mrcnn_ext."):
            # What extends a script's class wraps the method that it had.
            function = inspect.unwrap(getattr(own, "__func__", own))
            return function is getattr(DefaultTrainer, method).__func__
    return False


def running_methods() -> Iterator[tuple[str, object]]:
    """Names of the functions that are running, the innermost first, and their ``self`` or None."""
    frame = inspect.currentframe()
    while frame is not None:
        yield frame.f_code.co_name, frame.f_locals.get("self")
        frame = frame.f_back


def check_followed(cfg) -> None:
    """Called by this package's components as they are built: keys of training must not be in vain.

    Raises:
        ConfigError: some are set, and the trainer that is being built does not follow them.
    """
    trainer = trainer_being_built()
    if trainer is None or getattr(type(trainer), FOLLOWS, False):
        return
    keys = [*set_training_keys(cfg), *set_data_keys(cfg)]
    if keys:
        raise ConfigError(
            f"{keys[0]} is set, but {type(trainer).__module__}.{type(trainer).__qualname__} does not "
            "follow it. Set MODEL.META_ARCHITECTURE to 'MrcnnExtRCNN', which extends a script's own "
            "subclass of DefaultTrainer, or train with python -m mrcnn_ext.train, or derive your "
            "trainer from mrcnn_ext.engine.TrainerMixin."
        )
