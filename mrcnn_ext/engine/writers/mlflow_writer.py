# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""MLflow: scalars, pictures, config, state of the code, final values."""

from __future__ import annotations

import json
import logging
import os
import re
import time
from pathlib import Path
from typing import Any

from ...files import write_json
from .run_facts import flat_values, stored_run
from .run_writer import Picture, RunWriter, needed_package

__all__ = ["MLflowWriter"]

# Detectron2's tools print what is logged below its own name.
logger = logging.getLogger("detectron2." + __name__)

_MOST_METRICS, _MOST_PARAMETERS = 1000, 100  # that MLflow takes at once
_LONGEST_NAME, _LONGEST_VALUE = 250, 500
_STATUS = {"finished": "FINISHED", "failed": "FAILED", "killed": "KILLED"}


class MLflowWriter(RunWriter):
    """Writes a run of MLflow. MLFLOW_TRACKING_URI and its other environment variables hold.

    Characters that MLflow refuses in names become "_".
    """

    RUN_FILE = "mlflow_run.json"  # in output_dir: the run that a resume goes on with

    def __init__(
        self,
        *,
        output_dir: str | os.PathLike,
        experiment: str = "mrcnn_ext",
        name: str = "",
        tracking_uri: str | None = None,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            output_dir: folder of the training, for the id of the run.
            experiment: is made if need be.
            name: of the run; "": the name of ``output_dir``.
            tracking_uri: a server, ``sqlite:///FILE`` or a folder. None: as MLflow chooses, first by
                MLFLOW_TRACKING_URI.
            kwargs: as for RunWriter.

        Raises:
            ConfigError: mlflow is not installed.
        """
        self._mlflow: Any = needed_package("mlflow", "mlflow", "mlflow")
        super().__init__(folder=output_dir, **kwargs)
        self._folder = Path(output_dir)
        self._experiment = experiment
        self._name = name or self._folder.resolve().name
        self._tracking_uri = tracking_uri
        self._client: Any = None
        self._run_id = ""

    def start(self, first_iteration: int) -> None:
        self._client = self._mlflow.MlflowClient(self._tracking_uri)
        run = self._stored_run() if first_iteration else None
        if run is None:
            found = self._client.get_experiment_by_name(self._experiment)
            number = (
                found.experiment_id if found else self._client.create_experiment(self._experiment)
            )
            run = self._client.create_run(number, run_name=self._name)
        else:
            self._client.update_run(run.info.run_id, status="RUNNING")
        self._run_id = run.info.run_id
        write_json(self._folder / self.RUN_FILE, {"run_id": self._run_id})
        self._send_facts(dict(run.data.params))

    def _stored_run(self) -> Any:
        """The run that was interrupted; None if there is none, or it was deleted."""
        run_id = stored_run(self._folder / self.RUN_FILE, "run_id")
        if not run_id:
            return None
        try:
            run = self._client.get_run(run_id)
        except self._mlflow.exceptions.MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            run = None
        if run is None or run.info.lifecycle_stage != "active":
            logger.warning(f"MLflow has no run {run_id} to go on with: a new one is made.")
            return None
        return run

    def _send_facts(self, known: dict[str, str]) -> None:
        entities = self._mlflow.entities
        values = {
            _name(key): str(value)[:_LONGEST_VALUE]
            for key, value in flat_values(self.config_values).items()
        }
        new = [entities.Param(k, v) for k, v in values.items() if k not in known]
        for first in range(0, len(new), _MOST_PARAMETERS):
            self._client.log_batch(self._run_id, params=new[first : first + _MOST_PARAMETERS])
        # MLflow's parameters cannot be changed: what a resumed training has otherwise is a tag.
        tags = {f"resumed with {k}": v for k, v in values.items() if known.get(k, v) != v}
        if self.git:
            tags["mlflow.source.git.commit"] = self.git["commit"]
            tags["git.dirty"] = str(self.git["dirty"])
        for key, value in tags.items():
            self._client.set_tag(self._run_id, key, value)
        if self.config_text:
            self._client.log_text(self._run_id, self.config_text, "training_config.txt")

    def send(self, scalars: dict[int, dict[str, float]], pictures: list[Picture]) -> None:
        now = int(1000 * time.time())
        metrics = [
            self._mlflow.entities.Metric(_name(name), value, now, iteration)
            for iteration, values in scalars.items()
            for name, value in values.items()
        ]
        for first in range(0, len(metrics), _MOST_METRICS):
            self._client.log_batch(self._run_id, metrics=metrics[first : first + _MOST_METRICS])
        for picture in pictures:
            key = _name(picture.name).replace(":", "_")
            self._client.log_image(self._run_id, picture.image, key=key, step=picture.iteration)

    def finish(self, final: dict[str, float], status: str) -> None:
        text = json.dumps(final, indent=1, sort_keys=True)
        self._client.log_text(self._run_id, text, "final_metrics.json")
        self._client.set_terminated(self._run_id, _STATUS[status])


def _name(text: str) -> str:
    """A name that MLflow takes, which makes paths of them."""
    kept = re.sub(r"[^0-9A-Za-z_\-. :/]", "_", text)
    parts = [part for part in kept.split("/") if part not in ("", ".", "..")]
    return "/".join(parts)[:_LONGEST_NAME].rstrip("/") or "_"
