# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""After which steps Detectron2's EvalHook evaluates."""

from __future__ import annotations

__all__ = ["is_evaluation_step"]


def is_evaluation_step(iteration: int, period: int, max_iter: int) -> bool:
    """Whether there is an evaluation after this step, as the hook's ``after_step``.

    The one at the end of training does not count: it is in the hook's ``after_train``.

    Args:
        iteration: of the step, from 0.
        period: steps between two evaluations; 0: there is only the one at the end.
        max_iter: steps of the training.
    """
    after = iteration + 1
    return period > 0 and after % period == 0 and after < max_iter
