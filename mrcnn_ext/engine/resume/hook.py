# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The hook that puts a resumed training where it was."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from detectron2.engine import HookBase
from detectron2.engine.hooks import PeriodicWriter
from detectron2.utils import comm

from ...checkpoint.training_checkpointer import TrainingCheckpointer
from ...errors import ConfigError
from ..evaluation_steps import is_evaluation_step
from .loader import ExactLoader
from .seeds import seed_step

__all__ = ["ExactResume"]

logger = logging.getLogger("detectron2." + __name__)  # which its tools print

_METRICS = "metrics.json"
_WINDOW = 20  # of Detectron2's writers, which smooth over that many steps


class ExactResume(HookBase):
    """Give every step the batch and the random numbers that belong to it, also after a resume.

    It comes after all hooks whose state belongs into checkpoints, and before the writers. What the
    evaluation changes (best metric, early stopping) is not in a checkpoint that was written before
    it: the checkpoint is written once more. If training was killed in between, it is evaluated after
    the resume.
    """

    def __init__(
        self,
        checkpointer: TrainingCheckpointer,
        evaluation: Sequence[HookBase] = (),
        eval_period: int = 0,
    ) -> None:
        """
        Args:
            checkpointer: of the training.
            evaluation: EvalHook and those that act on its results, in their order.
            eval_period: in steps; 0: there is none before the end.
        """
        self._checkpointer = checkpointer
        self._evaluation = list(evaluation)
        self._eval_period = eval_period
        self._seed: int | None = None
        self._evaluated = -1  # the last step after which there was an evaluation
        self._loaded: dict = {}

    # ---- state -----------------------------------------------------------------------------------

    def state_dict(self) -> dict:
        loader, storage = self._loader(), self.trainer.storage
        recent = {
            name: [[float(v), float(i)] for v, i in buffer.values()[-_WINDOW:]]
            for name, buffer in storage.histories().items()
        }
        return {
            "seed": self._seed,
            "world_size": comm.get_world_size(),
            "last_batch": loader.batch(self.trainer.iter),
            "evaluated": self._evaluated,
            "recent": recent,
            "smoothing": dict(storage.smoothing_hints()),
        }

    def load_state_dict(self, state: dict) -> None:
        self._loaded = state

    # ---- steps -----------------------------------------------------------------------------------

    def before_train(self) -> None:
        loader, state, start = self._loader(), self._loaded, self.trainer.start_iter
        if state:
            self._seed, self._evaluated = state["seed"], state["evaluated"]
            if loader.asked_seed not in (None, self._seed) and comm.is_main_process():
                logger.warning(
                    f"The seed (SEED, train.seed) is {loader.asked_seed}, but training goes on with "
                    f"that of the checkpoint, {self._seed}."
                )
            loader.seed = state["seed"]
        else:
            self._seed = loader.seed
            if start:
                logger.warning(
                    f"The checkpoint was written without MRCNN_EXT.RESUME.EXACT: from step {start} on "
                    "images come in a new order."
                )
        if start >= self.trainer.max_iter and comm.is_main_process():
            logger.warning(
                f"The checkpoint is of step {start - 1}, the last one, or beyond "
                f"(SOLVER.MAX_ITER, train.max_iter: {self.trainer.max_iter}): nothing is trained."
            )
        loader.start = start
        last = start - 1  # the step that the checkpoint is of
        late = bool(state) and self._is_due(last) and self._evaluated != last
        written = last
        if comm.is_main_process() and (start or not self._checkpointer.has_checkpoint()):
            # What an evaluation gives is in the line of its step.
            written = self._cut_metrics(last if late else start)
        if not (state and start):
            return
        self._compare(state, loader, start)
        self._restore_histories(state)
        if late:
            logger.info(f"Training ended before the evaluation after step {last}: it comes now.")
            self._run_late(self._evaluation, last)
            self._run_late([self], last)
        self._write_late(written, last)

    def before_step(self) -> None:
        assert self._seed is not None
        seed_step(self._seed, comm.get_rank(), self.trainer.iter)

    def after_step(self) -> None:
        if self._is_due(self.trainer.iter):
            self._evaluated = self.trainer.iter
            if comm.is_main_process():
                self._checkpointer.save_again(self.trainer.iter)

    def after_train(self) -> None:
        # The loop counts on after no step, too: what is written now is of the last one.
        last = max(self.trainer.start_iter, self.trainer.max_iter)
        if self.trainer.iter > last:
            self.trainer.iter = self.trainer.storage.iter = last
        # The last evaluation is in the hooks' after_train.
        if self.trainer.iter >= self.trainer.max_iter and comm.is_main_process():
            self._evaluated = self.trainer.max_iter - 1
            iteration, self.trainer.iter = self.trainer.iter, self.trainer.max_iter - 1
            try:
                self._checkpointer.save_again(self.trainer.max_iter - 1)
            finally:
                self.trainer.iter = iteration

    # ---- parts -----------------------------------------------------------------------------------

    def _is_due(self, iteration: int) -> bool:
        return is_evaluation_step(iteration, self._eval_period, self.trainer.max_iter)

    def _loader(self) -> ExactLoader:
        loader = getattr(self.trainer, "data_loader", None)
        if not isinstance(loader, ExactLoader):
            raise ConfigError(
                "MRCNN_EXT.RESUME.EXACT is True, but the trainer's data loader is "
                f"{type(loader).__qualname__}, which the script has put in the place of that of "
                "build_train_loader."
            )
        return loader

    def _compare(self, state: dict, loader: ExactLoader, start: int) -> None:
        processes = comm.get_world_size()
        if state["world_size"] != processes:
            logger.warning(
                f"The training ran in {state['world_size']} processes, now in {processes}: from step "
                f"{start} on images come in another order."
            )
        elif comm.is_main_process() and loader.batch(start - 1) != [
            tuple(place) for place in state["last_batch"]
        ]:
            logger.warning(
                f"Step {start - 1} has other images now than it had: the data set, the sampler or "
                "SOLVER.IMS_PER_BATCH has changed. Training goes on, with another order of images."
            )

    def _restore_histories(self, state: dict) -> None:
        """Writers smooth over the last steps."""
        storage = self.trainer.storage
        now = storage.iter
        for name, values in state["recent"].items():
            for value, iteration in values:
                storage.iter = int(iteration)
                storage.put_scalar(name, value, smoothing_hint=state["smoothing"].get(name, True))
        storage.iter = now

    def _cut_metrics(self, start: int) -> int:
        """Delete what a killed process wrote about steps that are to come again.

        That is at the end of the file. Lines before it stay, whatever they are: the file may begin with
        those of an earlier training in the same folder.

        Returns:
            the last step that is left; -1 if there is none.
        """
        file = Path(os.fspath(self._checkpointer.save_dir)) / _METRICS
        if not file.is_file():
            return -1
        kept, last = 0, -1
        with open(file, "rb+") as opened:
            end = 0
            for line in opened:
                end += len(line)
                iteration = _iteration(line)
                if iteration is not None and iteration < start:
                    kept, last = end, iteration
            opened.truncate(kept)
        return last

    def _run_late(self, hooks: Sequence[HookBase], iteration: int) -> None:
        """Call ``after_step`` of hooks for a step that has been taken before."""
        now, self.trainer.iter = self.trainer.iter, iteration
        self.trainer.storage.iter = iteration
        try:
            for hook in hooks:
                hook.after_step()
        finally:
            self.trainer.iter = self.trainer.storage.iter = now

    def _write_late(self, written: int, last: int) -> None:
        """Writers write the last step, if it came into a checkpoint only, and nothing twice."""
        for hook in self.trainer._hooks:
            if isinstance(hook, PeriodicWriter):
                for writer in hook._writers:
                    writer = getattr(writer, "writer", writer)  # of a GuardedWriter
                    if isinstance(getattr(writer, "_last_write", None), int):
                        writer._last_write = written
                if written < last:
                    self._run_late([hook], last)


def _iteration(line: bytes) -> int | None:
    """Of a line of metrics.json; None if it is torn."""
    try:
        iteration = int(json.loads(line)["iteration"])
    except (ValueError, OverflowError, KeyError, TypeError):
        return None
    return iteration if line.endswith(b"\n") else None
