# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Give a built module another forward, and keep its type, names, weights and place."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from torch import nn

__all__ = ["ModuleMixin", "mix_in", "take_out"]

if TYPE_CHECKING:
    ModuleMixin = nn.Module
else:
    ModuleMixin = object  # mixins come before the module's own class, which has the constructor


def mix_in(mixin: type, module: nn.Module) -> None:
    """Make ``module`` an instance of a class that derives from ``mixin`` and its own class.

    The module stays where it is: Detectron2's FPN and heads also keep their layers in plain lists,
    which a replaced child would not reach. ``isinstance`` holds as before.
    """
    if not isinstance(module, mixin):
        module.__class__ = _mixed(mixin, type(module))  # type: ignore[arg-type]


@cache
def _mixed(mixin: type, kind: type) -> type:
    name = f"{mixin.__name__}{kind.__name__}"
    return type(name, (mixin, kind), {"__module__": mixin.__module__, "__doc__": mixin.__doc__})


def take_out(mixin: type, model: nn.Module) -> None:
    """Undo :func:`mix_in` for ``mixin`` in all modules of ``model``, where it came last."""
    for module in model.modules():
        bases = type(module).__bases__
        if len(bases) == 2 and bases[0] is mixin:
            module.__class__ = bases[1]
