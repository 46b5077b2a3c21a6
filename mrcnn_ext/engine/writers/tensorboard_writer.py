# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""TensorBoard: scalars, pictures, config, state of the code, final values."""

from __future__ import annotations

import json
import os
from typing import Any

from .run_facts import flat_values
from .run_writer import Picture, RunWriter, needed_package

__all__ = ["TensorboardWriter"]


class TensorboardWriter(RunWriter):
    """Writes what Detectron2's TensorboardXWriter does, and config, git state and final values.

    After a resume, the points that an interrupted training wrote beyond its last checkpoint are no
    longer shown.
    """

    def __init__(self, *, log_dir: str | os.PathLike, **kwargs: Any) -> None:
        """
        Args:
            log_dir: where the event files are written; usually OUTPUT_DIR.
            kwargs: as for RunWriter.

        Raises:
            ConfigError: tensorboard is not installed.
        """
        module = needed_package("torch.utils.tensorboard", "tensorboard", "tensorboard")
        super().__init__(folder=log_dir, **kwargs)
        self._make = module.SummaryWriter
        self._log_dir = os.fspath(log_dir)

    def start(self, first_iteration: int) -> None:
        self._writer = self._make(self._log_dir, purge_step=first_iteration or None)
        if self.config_text:
            self._writer.add_text("config", f"```\n{self.config_text}\n```", first_iteration)
        if self.git:
            self._writer.add_text("git", json.dumps(self.git), first_iteration)
        self._writer.flush()

    def send(self, scalars: dict[int, dict[str, float]], pictures: list[Picture]) -> None:
        for iteration, values in scalars.items():
            for name, value in values.items():
                self._writer.add_scalar(name, value, iteration)
        for picture in pictures:
            self._writer.add_image(
                picture.name, picture.image, picture.iteration, dataformats="HWC"
            )
        self._writer.flush()

    def send_histograms(self, histograms: list[dict]) -> None:
        for histogram in histograms:
            self._writer.add_histogram_raw(**histogram)

    def finish(self, final: dict[str, float], status: str) -> None:
        from torch.utils.tensorboard.summary import hparams

        rows = "\n".join(f"| {name} | {value:.6g} |" for name, value in sorted(final.items()))
        self._writer.add_text("final metrics", f"{status}\n\n| metric | value |\n|---|---|\n{rows}")
        values = {
            name: value
            for name, value in flat_values(self.config_values).items()
            if isinstance(value, (bool, int, float, str))
        }
        # In this file, not in one of its own as add_hparams has it
        for summary in hparams(values, final):
            self._writer.file_writer.add_summary(summary)
        self._writer.close()
