# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""One run in a process of its own: ``python -m mrcnn_ext.compare.run FOLDER`` (spec.json is there)."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import ConfigError, DataError
from ..files import only_process

__all__ = ["import_all", "main", "write_spec"]


def import_all(names: Sequence[str]) -> None:
    """Import modules or files, which register heads and data sets; call their setup_environment.

    Raises:
        ConfigError: one cannot be imported.
    """
    for name in names:
        try:
            module = (
                _import_file(Path(name)) if name.endswith(".py") else importlib.import_module(name)
            )
        except Exception as error:  # whatever their code raises
            raise ConfigError(f"--import {name}: {type(error).__name__}: {error}") from error
        hook = getattr(module, "setup_environment", None)
        if hook is not None:
            hook()


def _import_file(path: Path):
    name = path.stem
    if name in sys.modules and getattr(sys.modules[name], "__file__", None) == str(path):
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ImportError(f"there is no file {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def write_spec(folder: Path, cfg, **spec) -> None:
    """Write config.yaml and spec.json, from which :func:`main` works."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(cfg.dump(), encoding="utf-8")
    (folder / "spec.json").write_text(json.dumps(spec, indent=1), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    folder = Path((argv or sys.argv[1:])[0])
    spec = json.loads((folder / "spec.json").read_text(encoding="utf-8"))
    import_all(spec["imports"])
    try:
        with only_process(folder):  # it may have outlived the command that started it
            _run(folder, spec)
    except DataError as error:
        print(f"compare: {error}", file=sys.stderr)
        return 1
    return 0


def _run(folder: Path, spec: dict) -> None:
    import cv2
    from detectron2.utils.logger import setup_logger

    from ..config.load import load_config
    from ..data import register_datasets
    from .kinds import HEAD_KINDS
    from .training import load_trained, train

    setup_logger(str(folder / "log.txt"))
    cv2.setNumThreads(1)
    cfg = load_config(folder / "config.yaml")
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
        )
    if spec["evaluate"]:
        kind.evaluate(model, cfg, folder, seed=spec["seed"], variant=spec["variant"])


if __name__ == "__main__":
    sys.exit(main())
