# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Whether a call of predict goes on with what an earlier one wrote: same model, options and inputs."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.utils.file_io import PathManager
from omegaconf import OmegaConf

from ..coco.read import read_json
from ..errors import DataError
from ..files import write_json
from ..messages import shorten
from .result_file import ResultFile
from .sources import Source

__all__ = ["check_inputs", "digest_of_config", "digest_of_file", "go_on_or_begin"]

_RUN, _LINES = "run.json", "coco_results.jsonl"
_RESULTS = ("coco_results.json", "predictions.json")
_ANEW = "Choose another folder, or begin anew with --restart, which deletes them."


def digest_of_config(cfg) -> str:
    """Of what a config says about the model and its input; not of weights, device and folder."""
    if isinstance(cfg, CfgNode):
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.WEIGHTS = cfg.MODEL.DEVICE = cfg.OUTPUT_DIR = ""
        text = cfg.dump()
    else:
        parts = [OmegaConf.to_container(cfg[key]) for key in ("model", "dataloader") if key in cfg]
        text = re.sub(r" at 0x[0-9a-f]+", "", str(parts))  # of functions, in another process
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def digest_of_file(path: str | os.PathLike) -> str:
    """
    Args:
        path: any that Detectron2's ``PathManager`` opens.
    """
    digest = hashlib.sha256()
    with PathManager.open(os.fspath(path), "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]


def go_on_or_begin(folder: Path, run: Mapping[str, str], *, restart: bool) -> None:
    """Check that ``folder`` has no predictions, or those of the same run; note the run there.

    Args:
        folder: of the output; this process holds it.
        run: what the predictions depend on, as texts by the names that messages use.
        restart: delete what is there.

    Raises:
        DataError: it has predictions of another run; names what differs.
        OSError: it cannot be written.
    """
    lines = folder / _LINES
    if restart:
        for name in (_LINES, _RUN, *_RESULTS):
            (folder / name).unlink(missing_ok=True)
    there = [name for name in _RESULTS if (folder / name).exists()]
    if there and not lines.exists():
        raise DataError(f"{folder} holds {there[0]}, but no {_LINES} to go on from. {_ANEW}")
    if lines.exists() and lines.stat().st_size:
        before = read_json(folder / _RUN) if (folder / _RUN).exists() else None
        if not isinstance(before, dict):
            raise DataError(f"{folder} holds predictions, but no {_RUN} that says of what. {_ANEW}")
        changed = [
            f"{key} was {before.get(key)} and is {run.get(key)}"
            for key in {**run, **before}
            if before.get(key) != run.get(key)
        ]
        if changed:
            raise DataError(
                f"{folder} holds predictions of another run: {'; '.join(changed)}. {_ANEW}"
            )
    else:
        write_json(folder / _RUN, run)


def check_inputs(results: ResultFile, sources: Sequence[Source]) -> None:
    """Check that what has a line already is among the inputs, and unchanged.

    Raises:
        DataError: it is not; names the files.
    """
    stamps = {source.name: source.stamp() for source in sources}
    gone, changed = set(), set()
    for name, stamp in results.done.items():
        # Of a frame the video: "clip.mp4#12"
        known = next((n for n in (name, name.rpartition("#")[0]) if n in stamps), None)
        if known is None:
            gone.add(name)
        elif stamps[known] != stamp:
            changed.add(known)
    for names, what in ((gone, "not among INPUT any more"), (changed, "changed since")):
        if names:
            raise DataError(
                f"{results.path.parent} holds predictions of other inputs: {len(names)} of them are "
                f"{what}: {shorten(sorted(names))}. {_ANEW}"
            )
