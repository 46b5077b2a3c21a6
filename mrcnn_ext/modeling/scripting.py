# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Keep subclasses of Detectron2 modules scriptable with ``torch.jit.script``."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType

__all__ = ["inherited"]


def inherited(function: Callable, name: str) -> Callable:
    """Give a parent's method a second name: TorchScript does not support ``super()``.

    With ``_stock_forward = inherited(Parent.forward, "_stock_forward")`` in a class, its ``forward``
    can call ``self._stock_forward(…)`` if ``torch.jit.is_scripting()``. A plain assignment does not
    work: TorchScript would compile it as a second ``forward``.

    Args:
        function: the parent's method.
        name: the attribute's name.
    """
    assert isinstance(function, FunctionType), function
    alias = FunctionType(
        function.__code__, function.__globals__, name, function.__defaults__, function.__closure__
    )
    alias.__annotations__ = dict(function.__annotations__)
    alias.__kwdefaults__ = function.__kwdefaults__
    alias.__module__ = function.__module__
    return alias
