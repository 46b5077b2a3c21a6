# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Do one run in its own process: ``python -m mrcnn_ext.compare.run FOLDER [IMPORT…]``.

FOLDER has spec.json and config.yaml. What is imported is an argument, since it is code.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
from detectron2.utils.logger import setup_logger

from ..command_line import import_all
from ..config.load import load_config
from ..data import register_datasets
from ..errors import DataError, WeightsError
from ..files import only_process, write_json, write_text
from .kinds import HEAD_KINDS
from .training import load_trained, train

__all__ = ["main", "write_spec"]


def write_spec(folder: Path, cfg, **spec) -> None:
    """Write config.yaml and spec.json, from which :func:`main` works."""
    write_text(folder / "config.yaml", cfg.dump())
    write_json(folder / "spec.json", spec)


def main(argv: Sequence[str] | None = None) -> int:
    name, *imports = argv or sys.argv[1:]
    folder = Path(name)
    spec = json.loads((folder / "spec.json").read_text(encoding="utf-8"))
    import_all(imports)
    try:
        with only_process(folder):  # it may have outlived the command that started it
            _run(folder, spec)
    except (DataError, WeightsError) as error:
        print(f"compare: {error}", file=sys.stderr)
        return 1
    return 0


def _run(folder: Path, spec: dict) -> None:
    setup_logger(str(folder / "log.txt"))
    cv2.setNumThreads(1)
    cfg = load_config(folder / "config.yaml", found=True)
    register_datasets(cfg)
    kind = HEAD_KINDS[spec.get("part", "mask")]
    if (folder / "training.json").is_file():
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


if __name__ == "__main__":
    sys.exit(main())
