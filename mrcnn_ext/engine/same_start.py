# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""All processes of a training begin with the same file."""

from __future__ import annotations

from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

from ..errors import ConfigError

__all__ = ["check_same_start", "check_weights"]


def check_weights(file: str) -> None:
    """Check that weights with which training begins are there; addresses are not looked up.

    Raises:
        ConfigError: there is no such file.
    """
    if not _is_here(file):
        raise ConfigError(
            f"{file}: there is no such file (MODEL.WEIGHTS or train.init_checkpoint)."
        )


def _is_here(file: str) -> bool:
    return not file or "://" in file or PathManager.isfile(file)


def check_same_start(checkpointer, weights: str, resume: bool) -> None:
    """Check that the file with which training begins is there, and is the same in all processes.

    Machines without a common file system would begin at different steps, and wait for each other for
    ever, or begin with different weights.

    Args:
        checkpointer: of the model.
        weights: as for its ``resume_or_load``.
        resume: likewise.

    Raises:
        ConfigError: it is not; names the file or key, and the process.
    """
    resumed = resume and checkpointer.has_checkpoint()
    file = checkpointer.get_checkpoint_file() if resumed else weights
    if comm.get_world_size() == 1:
        check_weights(file)
        return
    is_here = _is_here(file)
    for rank, (other, is_there) in enumerate(comm.all_gather((file, is_here))):
        if other != file:
            raise ConfigError(
                f"--resume: process {comm.get_rank()} goes on from '{file}', process {rank} from "
                f"'{other}'; OUTPUT_DIR must be a folder that all machines share."
            )
        if not is_there:
            raise ConfigError(f"{other}: process {rank} has no such file; all machines need it.")
