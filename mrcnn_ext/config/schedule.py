# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Schedules for a given number of iterations."""

from __future__ import annotations

__all__ = ["short_schedule"]


def short_schedule(iterations: int, warmup: int | None = None) -> list[str]:
    """Overrides for a training of that many iterations, whose last fifth has a smaller learning rate.

    Args:
        iterations: 1 or more.
        warmup: the config's iterations of warm-up, shortened to a fifth at most; None keeps them.
    """
    drop = iterations * 4 // 5
    overrides = ["SOLVER.MAX_ITER", str(iterations), "SOLVER.STEPS", f"({drop},)" if drop else "()"]
    if warmup is not None:
        overrides += ["SOLVER.WARMUP_ITERS", str(min(warmup, iterations // 5))]
    return overrides
