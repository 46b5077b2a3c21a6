# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Find the checkpoint that an interrupted training can go on from, and delete old ones."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ..files import is_special
from ..messages import describe
from .safe_checkpointer import why_not

__all__ = ["LastCheckpoint", "checkpoint_problem", "last_checkpoint", "prune_checkpoints"]

_NUMBERED = re.compile(r"model_(\d{7,})\.pth")
_FINAL = "model_final.pth"
_TAG = "last_checkpoint"
_LARGEST = 2**63  # iterations


@dataclass(frozen=True)
class LastCheckpoint:
    """Where a training goes on.

    Attributes:
        file: of the checkpoint; None: from the beginning.
        start: the next iteration.
        warnings: what is wrong with later checkpoints; each names its file.
    """

    file: Path | None
    start: int
    warnings: tuple[str, ...]


def last_checkpoint(
    folder: Path, *, like: Mapping[str, torch.Tensor] | None = None, parts: Iterable[str] = ()
) -> LastCheckpoint:
    """The last checkpoint in ``folder`` that is whole, as Detectron2 names them.

    The file ``last_checkpoint`` says which is tried first; then come those of earlier steps, the newest
    first, then those of later steps, which a longer training may have left in the folder before.

    Args:
        folder: of the training.
        like: the model's state_dict: names and shapes that the checkpoint must have.
        parts: what else it must have.
    """
    warnings = []
    files = _files(folder)
    tag = _read_tag(folder)
    if tag is not None:
        named = folder / tag
        if named in files:
            files.remove(named)
            files = [named, *sorted(files, key=lambda file: _number(file) > _number(named) >= 0)]
        else:
            what = (
                f"names {describe(tag)}, which is no checkpoint there" if tag else "names no file"
            )
            warnings.append(f"{folder / _TAG} {what}")
    for file in files:
        problem, iteration = _examine(file, like, parts)
        if problem is None:
            if warnings:
                warnings.append(f"going on from the checkpoint before: {file}")
            return LastCheckpoint(file, iteration + 1, tuple(warnings))
        warnings.append(f"{file} {problem}")
    if warnings:
        warnings.append(f"{folder} has no other checkpoint: starting from the beginning")
    return LastCheckpoint(None, 0, tuple(warnings))


def checkpoint_problem(
    file: Path, like: Mapping[str, torch.Tensor] | None = None, parts: Iterable[str] = ()
) -> str | None:
    """Why a training cannot go on from ``file``; None: it can. Arguments as above."""
    return _examine(file, like, parts)[0]


def prune_checkpoints(folder: Path, keep: int, below: int | None = None) -> list[str]:
    """Delete the old checkpoints of a training, which this process must hold.

    Those with other names than Detectron2's model_0001234.pth stay, model_final.pth among them.

    Args:
        keep: how many of the newest stay.
        below: those of this iteration and later ones do not count, and stay; None: all count.

    Returns:
        what is left of those that count, the oldest first.
    """
    files = [f for f in _numbered(folder) if below is None or _number(f) < below]
    for file in files[keep:]:
        file.unlink(missing_ok=True)
    return [str(file) for file in reversed(files[:keep])]


def _number(file: Path) -> int:
    match = _NUMBERED.fullmatch(file.name)
    return int(match[1]) if match else -1


def _numbered(folder: Path) -> list[Path]:
    files = [
        file
        for file in folder.glob("model_*.pth")
        if _NUMBERED.fullmatch(file.name) and not file.is_dir()
    ]
    return sorted(files, key=_number, reverse=True)


def _files(folder: Path) -> list[Path]:
    """All checkpoints, the newest first."""
    files = _numbered(folder)
    final = folder / _FINAL
    if final.is_file():
        # A longer training may have gone on from it.
        times = [file.stat().st_mtime_ns for file in files]
        own = final.stat().st_mtime_ns
        files.insert(next((i for i, time in enumerate(times) if time <= own), len(files)), final)
    return files


def _read_tag(folder: Path) -> str | None:
    file = folder / _TAG
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError:
        return None
    except OSError:  # it is a folder, say
        return ""


def _examine(
    file: Path, like: Mapping[str, torch.Tensor] | None, parts: Iterable[str]
) -> tuple[str | None, int]:
    if is_special(file):
        return "is damaged: it is no file", -1
    try:
        if not zipfile.is_zipfile(file):
            return "is damaged: it is no whole zip file, as torch.save writes it", -1
        # torch does not compare checksums: zeros in the midst of a file would be weights.
        with zipfile.ZipFile(file) as opened:
            torn = opened.testzip()
        if torn is not None:
            return f"is damaged: the checksum of its entry '{torn}' is wrong", -1
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # reading a damaged file can raise anything
        return why_not(error), -1
    state, iteration = (
        (content.get("model"), content.get("iteration")) if isinstance(content, dict) else (None, 0)
    )
    if not isinstance(state, dict) or type(iteration) is not int:
        return "is no checkpoint of a training: it lacks 'model' or 'iteration'", -1
    if not 0 <= iteration < _LARGEST:
        return f"is no checkpoint of a training: its 'iteration' is {describe(iteration)}", -1
    lacking = [name for name in parts if name not in content]
    if lacking:
        return f"is no checkpoint of this training: it lacks '{lacking[0]}'", -1
    trainer = content["trainer"] if "trainer" in parts else {"iteration": iteration}
    if not isinstance(trainer, dict) or trainer.get("iteration") != iteration:
        return "is no checkpoint of a training: the state of its trainer is of another step", -1
    return _problem_of_weights(state, like), iteration


def _problem_of_weights(state: dict, like: Mapping[str, torch.Tensor] | None) -> str | None:
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            return f"is no checkpoint of a training: '{name}' is no tensor"
    for name, value in (like or {}).items():
        if name not in state or state[name].shape != value.shape:
            return f"is of another model: '{name}' is missing or has another shape"
    for name, value in state.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            return f"is damaged: '{name}' is NaN or infinite"
    return None
