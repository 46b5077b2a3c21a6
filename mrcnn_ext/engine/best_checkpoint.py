# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Detectron2's BestCheckpointer, for training that is resumed."""

from __future__ import annotations

import json
import os
from pathlib import Path

from detectron2.engine import hooks

from ..files import write_json

__all__ = ["BestCheckpointer"]


class BestCheckpointer(hooks.BestCheckpointer):
    """Detectron2's hook, which also writes the best value to model_best.json.

    Detectron2's forgets it when training stops: the first evaluation after ``--resume`` then
    replaces model_best.pth, however bad it is.
    """

    def before_train(self) -> None:
        if self.trainer.start_iter == 0:
            return  # a new training
        try:
            best = json.loads(self._file().read_text(encoding="utf-8"))
            if best["metric"] == self._val_metric:
                self.best_metric, self.best_iter = best["value"], best["iteration"]
        except (OSError, ValueError, KeyError, TypeError):
            self._logger.info(f"No {self._file()} to go on from.")

    def _best_checking(self) -> None:
        before = self.best_iter
        super()._best_checking()
        if self.best_iter != before:
            best = {"metric": self._val_metric, "value": self.best_metric}
            write_json(self._file(), {**best, "iteration": self.best_iter})

    def _file(self) -> Path:
        return Path(os.fspath(self._checkpointer.save_dir)) / f"{self._file_prefix}.json"
