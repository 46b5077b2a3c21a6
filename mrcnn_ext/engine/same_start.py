# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""All processes of a training begin with the same file."""

from __future__ import annotations

from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

from ..errors import ConfigError

__all__ = ["check_same_start"]


def check_same_start(checkpointer, weights: str, resume: bool) -> None:
    """Check that all processes begin with the same file.

    Machines without a common file system would begin at different steps, and wait for each other for
    ever, or begin with different weights.

    Args:
        checkpointer: of the model.
        weights: as for its ``resume_or_load``.
        resume: likewise.

    Raises:
        ConfigError: they do not; names the key and the process.
    """
    if comm.get_world_size() == 1:
        return
    resumed = resume and checkpointer.has_checkpoint()
    file = checkpointer.get_checkpoint_file() if resumed else weights
    is_here = not file or "://" in file or PathManager.isfile(file)
    for rank, (other, is_there) in enumerate(comm.all_gather((file, is_here))):
        if other != file:
            raise ConfigError(
                f"--resume: process {comm.get_rank()} goes on from '{file}', process {rank} from "
                f"'{other}'; OUTPUT_DIR must be a folder that all machines share."
            )
        if not is_there:
            raise ConfigError(f"{other}: process {rank} has no such file; all machines need it.")
