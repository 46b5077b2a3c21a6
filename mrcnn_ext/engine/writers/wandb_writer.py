# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Weights & Biases: scalars, pictures, config, state of the code, final values."""

from __future__ import annotations

import logging
import os
import uuid
from pathlib import Path
from typing import Any

from ...files import write_json
from .run_facts import stored_run
from .run_writer import Picture, RunWriter, needed_package

__all__ = ["WandbWriter"]

# Detectron2's tools print what is logged below its own name.
logger = logging.getLogger("detectron2." + __name__)


class WandbWriter(RunWriter):
    """Writes a run of Weights & Biases, whose x-axis is the iteration.

    WANDB_MODE, WANDB_ENTITY and its other environment variables hold. Without a login, or if its server
    does not answer, the run is kept in ``output_dir/wandb`` for ``wandb sync``.
    """

    RUN_FILE = "wandb_run.json"  # in output_dir: the run that a resume goes on with

    def __init__(
        self,
        *,
        output_dir: str | os.PathLike,
        project: str = "mrcnn_ext",
        name: str = "",
        server_seconds: float = 30.0,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            output_dir: folder of the training, for the files of W&B and the id of the run.
            project: is made if need be.
            name: of the run; "": the name of ``output_dir``.
            server_seconds: how long to wait for W&B's server before the run goes to the folder.
            kwargs: as for RunWriter.

        Raises:
            ConfigError: wandb is not installed.
        """
        self._wandb: Any = needed_package("wandb", "wandb", "wandb")
        super().__init__(folder=output_dir, **kwargs)
        self._folder = Path(output_dir)
        self._project = project
        self._name = name or self._folder.resolve().name
        self._server_seconds = server_seconds
        self._run: Any = None

    def start(self, first_iteration: int) -> None:
        run_id = stored_run(self._folder / self.RUN_FILE, "id") if first_iteration else ""
        self._run = self._init(run_id or uuid.uuid4().hex[:12])
        write_json(self._folder / self.RUN_FILE, {"id": self._run.id})
        # Not W&B's own steps: a resumed training repeats iterations, which they do not allow.
        self._run.define_metric("iteration", hidden=True)
        self._run.define_metric("*", step_metric="iteration")
        config = dict(self.config_values)
        if self.git:
            config["git"] = self.git
        self._run.config.update(config, allow_val_change=True)
        if self.config_text:
            file = Path(self._run.dir) / "training_config.txt"  # "config.yaml" is W&B's own
            file.write_text(self.config_text, encoding="utf-8")
            self._run.save(str(file), base_path=str(file.parent), policy="now")

    def _init(self, run_id: str) -> Any:
        self._folder.mkdir(parents=True, exist_ok=True)
        arguments = {
            "project": self._project,
            "name": self._name,
            "id": run_id,
            "resume": "allow",
            "dir": str(self._folder),
            "settings": self._wandb.Settings(init_timeout=self._server_seconds),
        }
        reason = ""
        if os.environ.get("WANDB_MODE", "online") == "online" and not self._logged_in():
            reason = "there is no login (wandb login, or WANDB_API_KEY)"
        if not reason:
            try:
                return self._wandb.init(**arguments)
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
        logger.warning(
            f"Weights & Biases cannot be reached: {reason}. The run is written to "
            f"{self._folder / 'wandb'}; 'wandb sync' sends it later (WANDB_MODE=offline says so from "
            "the start)."
        )
        return self._wandb.init(mode="offline", **arguments)

    def _logged_in(self) -> bool:
        """Whether there is a key; never asks for one, which would wait for an answer."""
        if os.environ.get("WANDB_API_KEY"):
            return True
        try:
            return bool(self._wandb.login(prompt=False))
        except TypeError:  # older versions
            return bool(self._wandb.api.api_key)

    def send(self, scalars: dict[int, dict[str, float]], pictures: list[Picture]) -> None:
        rows: dict[int, dict[str, Any]] = {i: dict(values) for i, values in scalars.items()}
        for picture in pictures:
            image = self._wandb.Image(picture.image)
            rows.setdefault(picture.iteration, {})[picture.name] = image
        for iteration, row in sorted(rows.items()):
            self._run.log({**row, "iteration": iteration})

    def finish(self, final: dict[str, float], status: str) -> None:
        self._run.summary.update({**final, "status": status})
        self._run.finish(exit_code=0 if status == "finished" else 1)
