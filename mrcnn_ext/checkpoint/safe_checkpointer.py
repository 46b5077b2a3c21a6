# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Detectron2's checkpointer, for files that may come from anyone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils.file_io import PathManager
from fvcore.common.checkpoint import Checkpointer
from torch import nn

from ..errors import WeightsError
from ..files import replaced_file, write_text
from .check_weights import CheckedWeights, compare_weights
from .first_convolution import FirstConvolution
from .plain_pickle import check_plain_pickle

__all__ = ["SafeCheckpointer", "why_not", "why_unwritten"]


# What a model, an optimizer or a training makes of a state that is not its own
_ODD_STATES = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)


class _TensorFiles(Checkpointer):
    """Reads .pth files; Detectron2's checkpointer calls this one's ``_load_file`` for them."""

    trust_pickle = False

    def _load_file(self, f: str) -> dict[str, Any]:
        return torch.load(f, map_location="cpu", weights_only=not self.trust_pickle)


class SafeCheckpointer(DetectionCheckpointer, _TensorFiles):
    """DetectionCheckpointer that runs no code from the file, and notes what it loaded.

    Files are written whole or not at all, so that a killed training leaves no half of a checkpoint.

    ``.pth`` is read with ``weights_only=True``. A ``.pkl`` may hold numpy arrays and plain containers,
    as Detectron2's model zoo has them.

    Attributes:
        checked: what the last loaded file brought for the model; None before.
        first_convolution: how weights for three channels are taken into a model for another number;
            None: not at all, as for a model that is to predict.
    """

    def __init__(
        self, model: nn.Module, save_dir: str = "", *, trust_pickle: bool = False, **kwargs
    ) -> None:
        """
        Args:
            model, save_dir: as for DetectionCheckpointer.
            trust_pickle: load any file, even if that runs code from it.
            kwargs: as for DetectionCheckpointer.
        """
        super().__init__(model, save_dir, **kwargs)
        self.trust_pickle = trust_pickle
        self.checked: CheckedWeights | None = None
        self.first_convolution: FirstConvolution | None = None

    def save(self, name: str, **kwargs: Any) -> None:
        """As Checkpointer.save, into a folder of this machine."""
        if not self.save_dir or not self.save_to_disk:
            return
        parts = {key: part.state_dict() for key, part in self.checkpointables.items()}
        file = Path(self.save_dir) / f"{name}.pth"
        self.logger.info(f"Saving checkpoint to {file}")
        with replaced_file(file) as temporary:
            torch.save({"model": self.model.state_dict(), **parts, **kwargs}, temporary)
        self.tag_last_checkpoint(file.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        write_text(Path(self.save_dir) / "last_checkpoint", last_filename_basename)

    def load(self, path: str, *args, **kwargs) -> dict[str, Any]:
        """As Checkpointer.load.

        Raises:
            WeightsError: the file cannot be loaded, or its state of the training is not of this one.
        """
        try:
            return super().load(path, *args, **kwargs)
        except OSError as error:  # of a download, say
            raise WeightsError(f"{path}: cannot be loaded: {error}") from error
        except _ODD_STATES as error:
            reason = f"{type(error).__name__}: {error}"
            raise WeightsError(f"{path}: cannot be loaded: {reason}") from error

    def _load_file(self, filename: str) -> dict[str, Any]:
        """
        Raises:
            WeightsError: it is damaged, or reading it could run code; names the file.
        """
        try:
            if not self.trust_pickle and filename.endswith(".pkl"):
                with PathManager.open(filename, "rb") as file:
                    check_plain_pickle(file)
            elif not self.trust_pickle and filename.endswith(".pyth"):
                _TensorFiles._load_file(self, filename)
            loaded = super()._load_file(filename)
        except WeightsError:
            raise
        except Exception as error:  # reading a damaged pickle can raise anything
            raise WeightsError(f"{filename}: {why_not(error)}{_beginning(filename)}") from error
        if not isinstance(loaded.get("model"), dict):
            raise WeightsError(f"{filename}: is no checkpoint: it has no weights by name.")
        return loaded

    def _load_model(self, checkpoint: Any):
        if self.first_convolution is not None:
            self.first_convolution.adapt(self.model, checkpoint)
        incompatible = super()._load_model(checkpoint)
        self.checked = compare_weights(
            self.model,
            incompatible.missing_keys,
            incompatible.incorrect_shapes,
            incompatible.unexpected_keys,
        )
        return incompatible


_NAMED = re.compile(
    r"GLOBAL ([\w.]+)|unrecognized function (.+)|^it (?:names|makes|sets) (.+)|^(its arrays have .+)"
)


def why_not(error: Exception) -> str:
    """Why a file cannot be loaded, in a few words that go on after its name."""
    text = str(error)
    # torch names what it refuses in the midst of advice; our own check says it in a few words.
    found = _NAMED.search(text)
    if found:
        what = next(filter(None, found.groups()))
        return (
            f"holds more than tensors and plain values ({what}), so loading it could run code from "
            "the file. Pass --trust-pickle if you trust who made it."
        )
    # The rest is advice, which is to give up safety.
    inner = re.search(r"WeightsUnpickler error:\s*(.+)", text)
    lines = text.split(" In PyTorch ")[0].strip().splitlines()
    reason = inner[1].strip() if inner else lines[0] if lines else "it breaks off"
    return f"cannot be read as a checkpoint: {type(error).__name__}: {reason}"


def why_unwritten(error: OSError | RuntimeError) -> str | None:
    """Why torch.save failed; None if the error is of something else."""
    # A signal handler of PyTorch's raises this wherever the program is just then.
    if not isinstance(error, OSError) and "DataLoader worker" in str(error):
        return None
    # torch has no OSError for a full disk.
    return getattr(error, "strerror", None) or (str(error).splitlines() or [""])[0]


def _beginning(filename: str) -> str:
    """The first characters of a text, which is often a page that a server sent, or a git-lfs entry."""
    try:
        with PathManager.open(filename, "rb") as file:
            start = file.read(40)
    except OSError:
        return ""
    text = start.decode("ascii", "replace")
    return f" (it begins with {text!r})" if text and text.isprintable() else ""
