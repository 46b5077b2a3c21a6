# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Do one run in its own process: ``python -m mrcnn_ext.compare.run FOLDER [IMPORT…]``.

FOLDER has spec.json and config.yaml. What is imported is an argument, since it is code. One process
works in FOLDER.

Exit code 0: done; 1: it failed; 128 and the number of the signal that ended it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
from detectron2.utils.logger import setup_logger

from ..checkpoint import checkpoint_problem, prune_checkpoints
from ..child_processes import end_with_parent
from ..command_line import import_all, run_until_stopped
from ..config.load import load_config
from ..data import register_datasets
from ..errors import ConfigError, DataError, WeightsError
from ..files import only_process, remove_leftovers, write_json, write_text
from ..stop_signals import StopSignals
from .kinds import HEAD_KINDS
from .training import FINAL, load_trained, train

__all__ = ["main", "write_spec"]


def write_spec(folder: Path, cfg, **spec) -> None:
    """Write config.yaml and spec.json, from which :func:`main` works."""
    write_text(folder / "config.yaml", cfg.dump())
    write_json(folder / "spec.json", spec)


def main(argv: Sequence[str] | None = None) -> int:
    name, *imports = argv or sys.argv[1:]
    folder = Path(name)
    end_with_parent()

    def run(_: StopSignals) -> int:
        spec = _read_spec(folder)
        import_all(imports)
        with only_process(folder):  # a command that was killed may have left one that runs
            remove_leftovers(folder)
            _run(folder, spec)
        return 0

    return run_until_stopped(
        "compare",
        run,
        errors=(ConfigError, DataError, WeightsError),
        ended=lambda stop: f"compare: ended by {stop}",
    )


def _read_spec(folder: Path) -> dict:
    try:
        return json.loads((folder / "spec.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{folder} is no run of a comparison: spec.json cannot be read: {error}"
        ) from error


def _run(folder: Path, spec: dict) -> None:
    setup_logger(str(folder / "log.txt"))
    cv2.setNumThreads(1)
    cfg = load_config(folder / "config.yaml", found=True)
    register_datasets(cfg)
    kind = HEAD_KINDS[spec.get("part", "mask")]
    trained = folder / "training.json"
    if trained.is_file() and checkpoint_problem(folder / FINAL) is not None:
        trained.unlink()  # go on from the checkpoint before
    if trained.is_file():
        model = load_trained(cfg, folder)
    else:
        model = train(
            cfg,
            seed=spec["seed"],
            detector=spec["detector"],
            folder=folder,
            frozen=spec["frozen"],
            kind=kind,
            trust_pickle=spec.get("trust_pickle", False),
        )
    if spec["evaluate"]:
        labels = {"seed": spec["seed"], "variant": spec["variant"]}
        kind.evaluate(model, cfg, folder, **labels, optimized=spec.get("optimized", True))
        prune_checkpoints(folder, 0)


if __name__ == "__main__":
    sys.exit(main())
