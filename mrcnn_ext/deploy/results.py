# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Results of ``torch.inference_mode`` as ordinary tensors, which evaluators may change in place."""

from __future__ import annotations

import copy
from typing import Any

from detectron2.structures import Instances
from torch import Tensor

__all__ = ["ordinary"]


def ordinary(result: Any) -> Any:
    """``result`` with copies of the tensors that inference mode made; to be called outside of it.

    Detectron2's COCO evaluator subtracts 0.5 from keypoints in place, and its post-processing scales
    boxes in place: torch forbids both for tensors of inference mode.

    Args:
        result: a tensor; Instances, Boxes or another structure that holds tensors as attributes; a
            dict, list or tuple of them. Anything else is returned as it is.
    """
    if isinstance(result, Tensor):
        return result.clone() if result.is_inference() else result
    if isinstance(result, Instances):
        same = type(result)(result.image_size)
        # Not get_fields(), which pastes deferred masks
        for name, value in result._fields.items():
            same.set(name, ordinary(value))
        return same
    if isinstance(result, dict):
        return {key: ordinary(value) for key, value in result.items()}
    if type(result) in (list, tuple):
        return type(result)(ordinary(value) for value in result)
    held = {k: v for k, v in getattr(result, "__dict__", {}).items() if isinstance(v, Tensor)}
    if not any(value.is_inference() for value in held.values()):
        return result
    same = copy.copy(result)
    for name, value in held.items():
        setattr(same, name, ordinary(value))
    return same
