# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Whether the optimizer's state in a checkpoint is of the optimizer that a training has now."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

from ..errors import WeightsError
from ..messages import shorten

__all__ = ["compare_optimizers", "saved_optimizer"]

# What a user chooses; PyTorch adds others from version to version.
_OPTIONS = ("momentum", "dampening", "nesterov", "betas", "eps", "weight_decay")
_PLACES = ("inner_trainer", "trainer", "_trainer", "optimizer")


def saved_optimizer(state: Any) -> dict | None:
    """The optimizer's state_dict within a checkpoint or a part of it; None if it has none."""
    if not isinstance(state, dict):
        return None
    if isinstance(state.get("param_groups"), list):
        return state
    found = (saved_optimizer(state.get(place)) for place in _PLACES)
    return next(filter(None, found), None)


def compare_optimizers(saved: dict, optimizer: Optimizer) -> list[str]:
    """Compare before loading: PyTorch takes a state of another optimizer, and fails in a step.

    Args:
        saved: a state_dict.
        optimizer: of the training.

    Returns:
        what the checkpoint has otherwise, for example "weight_decay 0.1, not 0.0001". Its values hold
        after loading.

    Raises:
        WeightsError: it is of another optimizer, or of other groups of parameters; says which.
    """
    groups: list[dict] = saved["param_groups"]
    now: list[dict] = optimizer.param_groups
    sizes = [[len(group.get("params", ())) for group in part] for part in (groups, now)]
    names = [{n for n in _OPTIONS if all(n in g for g in part)} for part in (groups, now)]
    if names[0] != names[1]:
        has, lacks = (shorten(sorted(a - b)) for a, b in (names, names[::-1]))
        raise WeightsError(
            f"its optimizer is not {type(optimizer).__name__}: it has {has or 'nothing'} in place of "
            f"{lacks or 'nothing'}"
        )
    if sizes[0] != sizes[1]:
        raise WeightsError(
            f"its optimizer has groups of {shorten(sizes[0])} parameters, this one of "
            f"{shorten(sizes[1])}: learning rates or weight decay by layer or kind of parameter are "
            "others, or what is frozen"
        )
    differences: dict[str, str] = {}
    for before, group in zip(groups, now):
        pairs = {name: (before[name], group[name]) for name in names[1]}
        start = before.get("initial_lr")  # "lr" is what the schedule made of it
        if start is not None:
            pairs["learning rate"] = (start, group.get("initial_lr", group["lr"]))
        for name, (old, new) in sorted(pairs.items()):
            if _plain(old) != _plain(new):
                differences.setdefault(name, f"{name} {_shown(old)}, not {_shown(new)}")
    return list(differences.values())


def _plain(value):
    return list(value) if isinstance(value, tuple) else value


def _shown(value) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
