# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The checkpointer of a training that may be interrupted at any moment."""

from __future__ import annotations

import logging
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from detectron2.utils import comm
from torch import nn
from torch.optim import Optimizer

from ..errors import DataError, WeightsError
from ..messages import shorten
from .compare_optimizers import compare_optimizers, saved_optimizer
from .last_checkpoint import last_checkpoint, prune_checkpoints
from .safe_checkpointer import SafeCheckpointer, why_unwritten

__all__ = ["TrainingCheckpointer"]

logger = logging.getLogger("detectron2." + __name__)  # which its tools print

# Those that training goes on from; model_best is not, since it may be an old one.
_RESUMABLE = re.compile(r"model_(\d{7,}|final)")
_INNER = "inner_trainer"


class TrainingCheckpointer(SafeCheckpointer):
    """Writes whole files, passes over damaged ones, and keeps the optimizer's state.

    Detectron2 0.6's trainer saves no optimizer: a resumed training begins with momentum 0 there.
    """

    def __init__(self, model: nn.Module, save_dir: str = "", *, keep: int = 0, **kwargs) -> None:
        """
        Args:
            model, save_dir, kwargs: as for DetectionCheckpointer.
            keep: number of numbered checkpoints that stay; 0: all.
        """
        super().__init__(model, save_dir, **kwargs)
        self._keep = keep
        self._written: tuple[Any, list[str]] = (None, [])  # the last step, and its checkpoints
        self._found: str | None = None
        self._goes_on = False

    @classmethod
    def of_trainer(
        cls, model: nn.Module, save_dir: str, trainer, *, keep: int = 0
    ) -> TrainingCheckpointer:
        """For a DefaultTrainer, given as a weak proxy.

        Args:
            model, save_dir, keep: as above.
        """
        parts = {"trainer": trainer}
        if "_trainer" not in trainer.state_dict():
            parts[_INNER] = _Inner(trainer)
        return cls(model, save_dir, keep=keep, **parts)

    def save(self, name: str, **kwargs: Any) -> None:
        """As Checkpointer.save. Deletes what ``keep`` says when the new one is there.

        Raises:
            DataError: it cannot be written; the one before is as it was.
        """
        try:
            super().save(name, **kwargs)
        except (OSError, RuntimeError) as error:
            reason = why_unwritten(error)
            if reason is None:
                raise
            raise DataError(self._unwritable(name, reason)) from error
        if not _RESUMABLE.fullmatch(name) or not (self.save_dir and self.save_to_disk):
            return
        self._found = str(Path(self.save_dir) / f"{name}.pth")  # hooks ask what was saved
        step = kwargs.get("iteration")
        names = [n for n in self._written[1] if n != name] if self._written[0] == step else []
        self._written = (step, [*names, name])
        if self._keep and isinstance(step, int) and self._is_finite():
            # Those of later steps are of an earlier training in this folder: not this one's to delete.
            prune_checkpoints(Path(self.save_dir), self._keep, below=step + 1)

    def _is_finite(self) -> bool:
        """Whether training can go on from what was written; if not, the ones before are needed."""
        values = (v for v in self.model.state_dict().values() if v.is_floating_point())
        return all(bool(torch.isfinite(value).all()) for value in values)

    def save_again(self, iteration: int) -> None:
        """Write the checkpoints of a step once more, if there are any, with what has come since."""
        if self._written[0] == iteration:
            for name in self._written[1]:
                self.save(name, iteration=iteration)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        if _RESUMABLE.fullmatch(last_filename_basename.rpartition(".")[0]):
            super().tag_last_checkpoint(last_filename_basename)

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """As Checkpointer.resume_or_load.

        Raises:
            WeightsError: training cannot go on from the checkpoint; names it.
        """
        self._goes_on = resume and self.has_checkpoint()
        if not resume:
            self._warn_of_earlier()
        return super().resume_or_load(path, resume=resume)

    def _load_model(self, checkpoint: Any):
        """With the whole file at hand: what comes next is to load the optimizer's state."""
        saved = saved_optimizer(checkpoint) if self._goes_on else None
        optimizer = self._optimizer()
        if self._goes_on and saved is None:
            logger.warning(
                f"{self._found} has no state of the optimizer: its momentum begins at 0."
            )
        if saved is not None and optimizer is not None:
            try:
                others = compare_optimizers(saved, optimizer)
            except WeightsError as error:
                raise WeightsError(
                    f"Training cannot go on from {self._found}: {error}. Set the keys as they were, or "
                    "begin a new training: another OUTPUT_DIR, and the old checkpoint as MODEL.WEIGHTS."
                ) from error
            if others:
                logger.warning(
                    f"Training goes on with the optimizer's settings in {self._found}: "
                    f"{'; '.join(others)}. For others begin a new training: another OUTPUT_DIR, and "
                    "the old checkpoint as MODEL.WEIGHTS."
                )
        return super()._load_model(checkpoint)

    def _optimizer(self) -> Optimizer | None:
        parts = self.checkpointables.values()
        found = (getattr(part, "optimizer", None) for part in parts)
        return next((item for item in found if isinstance(item, Optimizer)), None)

    def _warn_of_earlier(self) -> None:
        """A training that is killed before its first checkpoint would be resumed from these."""
        files = sorted(f.name for f in Path(self.save_dir).glob("model_*.pth"))
        files = [name for name in files if _RESUMABLE.fullmatch(name.rpartition(".")[0])]
        if files and comm.is_main_process():
            logger.warning(
                f"{self.save_dir} has checkpoints of an earlier training ({shorten(files)}), but "
                "without --resume this one begins anew. It replaces those of the same steps; others "
                "stay."
            )

    def has_checkpoint(self) -> bool:
        return bool(self.get_checkpoint_file())

    def get_checkpoint_file(self) -> str:
        """The last checkpoint that is whole; "" if there is none at all.

        Raises:
            WeightsError: there are checkpoints, but training can go on from none of them.
        """
        if self._found is None:
            self._found = self._find()
        return self._found

    def _find(self) -> str:
        folder = Path(self.save_dir)
        last = last_checkpoint(folder, like=self.model.state_dict(), parts=("trainer",))
        for warning in last.warnings if last.file is not None else ():
            logger.warning(warning)
        if last.file is None and last.warnings:
            raise WeightsError(
                f"Training cannot go on from any checkpoint in {folder}: "
                f"{shorten(last.warnings[:-1], 3)}. Choose another OUTPUT_DIR, or leave out "
                "--resume."
            )
        return str(last.file or "")

    def _unwritable(self, name: str, reason: str) -> str:
        folder = Path(self.save_dir)
        try:
            free = f" ({shutil.disk_usage(folder).free / 1e6:.0f} MB are free)"
        except OSError:
            free = ""
        try:
            before = (folder / "last_checkpoint").read_text(encoding="utf-8").strip()
        except OSError:
            before = ""
        text = f"the checkpoint {folder / name}.pth cannot be written: {reason}{free}."
        if before:
            text += f" {folder / before} is whole: make room, and go on from it with --resume."
        return text


class _Inner:
    """State of the trainer within a DefaultTrainer, which may be put there later."""

    def __init__(self, trainer) -> None:
        self._trainer = trainer

    def state_dict(self) -> dict:
        return self._trainer._trainer.state_dict()

    def load_state_dict(self, state: dict) -> None:
        self._trainer._trainer.load_state_dict(state)
