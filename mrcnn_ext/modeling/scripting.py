# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""How a subclass of a Detectron2 module stays open to ``torch.jit.script``."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType

__all__ = ["inherited"]


def inherited(function: Callable, name: str) -> Callable:
    """A parent's method under a second name, for TorchScript, which does not know ``super()``.

    ``_stock_forward = inherited(Parent.forward, "_stock_forward")`` in a class lets its ``forward``
    call ``self._stock_forward(…)`` where ``torch.jit.is_scripting()``. A plain assignment does not:
    TorchScript would compile it as a second ``forward``.

    Args:
        function: the parent's method.
        name: of the attribute.
    """
    assert isinstance(function, FunctionType), function
    alias = FunctionType(
        function.__code__, function.__globals__, name, function.__defaults__, function.__closure__
    )
    alias.__annotations__ = dict(function.__annotations__)
    alias.__kwdefaults__ = function.__kwdefaults__
    alias.__module__ = function.__module__
    return alias
