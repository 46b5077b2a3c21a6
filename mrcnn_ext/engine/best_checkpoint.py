# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Detectron2's BestCheckpointer, for training that is resumed."""

from __future__ import annotations

import json
import os
from pathlib import Path

from detectron2.engine import hooks

from ..errors import ConfigError
from ..files import write_json
from .ema import EMA_PREFIX, EMAWeightsCheckpointer, find_ema
from .metrics import check_metric

__all__ = ["BestCheckpointer"]


class BestCheckpointer(hooks.BestCheckpointer):
    """Detectron2's hook, which also writes the best value to model_best.json.

    A metric that does not exist is a ConfigError at the first evaluation. For one of the moving
    average ("ema/segm/AP") its weights are saved, alone.

    Detectron2's forgets it when training stops: the first evaluation after ``--resume`` then
    replaces model_best.pth, however bad it is.
    """

    _failed = False  # the error was raised; Detectron2's trainer calls after_train even so

    def before_train(self) -> None:
        if self._val_metric.startswith(EMA_PREFIX):
            ema = find_ema(self.trainer)
            if ema is None:
                raise ConfigError(
                    f"MRCNN_EXT.EVALUATION.BEST_METRIC is '{self._val_metric}', but there is no moving "
                    "average; expected MRCNN_EXT.EMA.ENABLED to be True."
                )
            folder = self._file().parent
            self._checkpointer = EMAWeightsCheckpointer(ema, str(folder))
        if self.trainer.start_iter == 0:
            return  # a new training
        try:
            best = json.loads(self._file().read_text(encoding="utf-8"))
            if best["metric"] == self._val_metric:
                self.best_metric, self.best_iter = best["value"], best["iteration"]
        except (OSError, ValueError, KeyError, TypeError):
            self._logger.info(f"No {self._file()} to go on from.")

    def _best_checking(self) -> None:
        self._check_metric()
        before = self.best_iter
        super()._best_checking()
        if self.best_iter != before:
            best = {"metric": self._val_metric, "value": self.best_metric}
            write_json(self._file(), {**best, "iteration": self.best_iter})

    def _check_metric(self) -> None:
        """A metric that no evaluation has would leave training without a best checkpoint.

        Raises:
            ConfigError: names those that there are.
        """
        if self._failed:
            return
        try:
            check_metric(self.trainer, self._val_metric, "MRCNN_EXT.EVALUATION.BEST_METRIC")
        except ConfigError:
            self._failed = True
            raise

    def _file(self) -> Path:
        return Path(os.fspath(self._checkpointer.save_dir)) / f"{self._file_prefix}.json"
