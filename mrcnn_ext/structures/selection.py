# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Indexing of structures with shared storage."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["select"]


def select(rows: Tensor, item: Any) -> Tensor:
    """``rows[item]`` for every index that Detectron2's structures take; always one-dimensional.

    Args:
        rows: (N,) int64.
        item: an int, a slice, a list of ints, or a tensor or array: bool (N,), int32 or int64 of one
            dimension. The result of indexing with a tensor is on the tensor's device; integers on a
            GPU do not make the host wait.

    Raises:
        IndexError: out of range.
        ValueError: a tensor of another type.
    """
    if isinstance(item, slice):
        return rows[item]
    if isinstance(item, np.ndarray):
        item = torch.from_numpy(item)
    if isinstance(item, list):
        item = torch.tensor(item, dtype=torch.int64)
    if not isinstance(item, Tensor):
        number = int(item)
        if not -len(rows) <= number < len(rows):
            raise IndexError(f"index {number} is out of range for {len(rows)} instances")
        return rows[number].reshape(1)
    if item.dtype not in (torch.bool, torch.int32, torch.int64):
        raise ValueError(f"Unsupported tensor dtype={item.dtype} for indexing!")
    if item.dim() != 1:
        raise ValueError(f"An index must have one dimension, but has shape {tuple(item.shape)}.")
    if rows.device != item.device:
        rows = rows.to(item.device, non_blocking=True)
    return rows[item]
