# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""End training when a metric of the evaluation no longer gets better."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from detectron2.engine import HookBase
from detectron2.engine.hooks import EvalHook, PeriodicCheckpointer
from detectron2.utils import comm

from ..errors import ConfigError
from .evaluation_steps import is_evaluation_step
from .metrics import check_metric

__all__ = ["EarlyStopping"]

logger = logging.getLogger("detectron2." + __name__)  # which its tools print

_KEY = "MRCNN_EXT.EARLY_STOPPING"


class EarlyStopping(HookBase):
    """Ends training after ``patience`` evaluations in a row whose metric is not better than the best.

    The metric is where the evaluation stores it, in the main process alone; that one decides, and all
    processes end after the same step. The main process then writes model_final.pth. Training ends as
    if that step had been its last: hooks clean up, writers write, the process ends without error.
    Resumed from there, it makes no step, unless ``patience`` is larger than it was.

    Register it in all processes, after the hooks that store the metric (EvalHook, ValidationLossHook).
    """

    def __init__(
        self,
        eval_period: int,
        metric: str,
        *,
        mode: str = "max",
        patience: int = 5,
        min_delta: float = 0.0,
        checkpointer=None,
    ) -> None:
        """
        Args:
            eval_period: of the evaluation, in steps.
            metric: its name in the trainer's storage, for example "segm/AP".
            mode: "max", or "min" for a loss.
            patience: number of evaluations, 1 or more. One whose metric is NaN or missing brings
                nothing.
            min_delta: by how much a value must be better than the best to count.
            checkpointer: writes the last checkpoint; None: that of the trainer or its hooks.

        Raises:
            ConfigError: an argument is out of range.
        """
        if mode not in ("max", "min"):
            raise ConfigError(f"{_KEY}.MODE (mode) is {mode!r}; expected 'max' or 'min'.")
        if eval_period < 1:
            raise ConfigError(
                f"{_KEY}.METRIC is '{metric}', but the evaluation's period (TEST.EVAL_PERIOD) is "
                f"{eval_period}; expected 1 or more."
            )
        if patience < 1 or not min_delta >= 0:
            raise ConfigError(
                f"{_KEY}: PATIENCE (patience) is {patience} and MIN_DELTA (min_delta) {min_delta}; "
                "expected 1 or more, and 0 or more."
            )
        self.metric, self.mode = metric, mode
        self.patience, self.min_delta = patience, min_delta
        self.best: float | None = None
        self.bad_evaluations = 0
        self._period = eval_period
        self._checkpointer = checkpointer

    @property
    def stopped(self) -> bool:
        """Whether the metric has not been better for ``patience`` evaluations."""
        return self.bad_evaluations >= self.patience

    # ---- as a hook -------------------------------------------------------------------------------

    def before_train(self) -> None:
        if self.stopped:
            logger.info(
                f"This training has stopped early: {self._describe()}. It does not go on; raise "
                f"{_KEY}.PATIENCE for that."
            )
            self._end_after(self.trainer.start_iter - 1)

    def after_step(self) -> None:
        if is_evaluation_step(self.trainer.iter, self._period, self.trainer.max_iter):
            self._decide()

    def state_dict(self) -> dict[str, Any]:
        return {
            "metric": self.metric,
            "mode": self.mode,
            "best": self.best,
            "bad_evaluations": self.bad_evaluations,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what a checkpoint has, if it is of the same metric."""
        if (state["metric"], state["mode"]) == (self.metric, self.mode):
            self.best = state["best"]
            self.bad_evaluations = state["bad_evaluations"]

    # ---- parts -----------------------------------------------------------------------------------

    def _decide(self) -> None:
        """
        Raises:
            ConfigError: in all processes, if the evaluation does not have the metric.
        """
        found = self._judge() if comm.is_main_process() else None
        error, self.best, self.bad_evaluations = comm.all_gather(found)[0]
        if error:
            raise ConfigError(error)
        if not self.stopped:
            return
        step = self.trainer.iter
        if comm.is_main_process():
            logger.info(f"Training stops early after step {step}: {self._describe()}.")
            checkpointer = self._checkpointer or _checkpointer_of(self.trainer)
            if checkpointer is not None:
                checkpointer.save("model_final", iteration=step)
        for hook in self.trainer._hooks:
            if isinstance(hook, EvalHook):  # it has just evaluated these weights
                hook._do_eval = _nothing
        self._end_after(step)

    def _judge(self) -> tuple[str, float | None, int]:
        """An error or "", the best value, and the number of evaluations since."""
        try:
            check_metric(self.trainer, self.metric, f"{_KEY}.METRIC")
        except ConfigError as error:
            return str(error), self.best, self.bad_evaluations
        value, step = self.trainer.storage.latest().get(self.metric, (math.nan, -1))
        if step != self.trainer.iter:  # of an earlier evaluation
            value = math.nan
        if self._is_better(value):
            return "", float(value), 0
        return "", self.best, self.bad_evaluations + 1

    def _is_better(self, value: float) -> bool:
        if not math.isfinite(value):
            return False
        if self.best is None:
            return True
        gain = value - self.best if self.mode == "max" else self.best - value
        return gain > self.min_delta

    def _describe(self) -> str:
        best = "never been finite" if self.best is None else f"not been better than {self.best:.5g}"
        number = self.bad_evaluations
        times = "in the last evaluation" if number == 1 else f"for {number} evaluations in a row"
        return f"{self.metric} has {best} {times}"

    def _end_after(self, step: int) -> None:
        """Let nothing happen in the steps after ``step``: Detectron2's trainers loop over a range."""
        trainer = self.trainer  # a weak reference

        def end_step() -> None:
            trainer.iter, trainer.max_iter = step, step + 1  # what hooks see after training

        trainer.before_step = trainer.run_step = _nothing
        trainer.after_step = end_step


def _checkpointer_of(trainer):
    """That of a DefaultTrainer, or of the hook that writes checkpoints; None if there is none."""
    found = getattr(trainer, "checkpointer", None)
    hooks = [h for h in trainer._hooks if isinstance(h, PeriodicCheckpointer)]
    return found or next((hook.checkpointer for hook in hooks), None)


def _nothing() -> None:
    pass
