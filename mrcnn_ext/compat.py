# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""What differs between Detectron2 0.6 and its main branch, in one place."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import dataclass

__all__ = ["InstalledDetectron2", "create_local_process_group", "installed_detectron2"]


@dataclass(frozen=True)
class InstalledDetectron2:
    """Which Detectron2 this process uses.

    Attributes:
        version: of the installed distribution ("0.6", "0.6+git02b5c4e2"), or of the package if it
            is only on the path.
        location: folder of the package.
        is_main: whether it is newer than the 0.6 release (both call themselves "0.6").
        has_compiled_ops: whether its own C++ ops are there; mrcnn_ext needs none of them.
    """

    version: str
    location: str
    is_main: bool
    has_compiled_ops: bool


def installed_detectron2() -> InstalledDetectron2 | None:
    """Describe the importable Detectron2, or return None if there is none."""
    spec = importlib.util.find_spec("detectron2")
    if spec is None or not spec.submodule_search_locations:
        return None
    import detectron2
    from detectron2.modeling import Backbone

    try:
        version = importlib.metadata.version("detectron2")
    except importlib.metadata.PackageNotFoundError:
        version = f"{detectron2.__version__} (not installed, only on the path)"
    return InstalledDetectron2(
        version=version,
        location=next(iter(spec.submodule_search_locations)),
        # Version strings do not tell them apart; this property came after 0.6.
        is_main=hasattr(Backbone, "padding_constraints"),
        has_compiled_ops=importlib.util.find_spec("detectron2._C") is not None,
    )


def create_local_process_group(num_processes: int) -> None:
    """Tell Detectron2's comm which processes share this machine.

    All processes call it, after ``torch.distributed.init_process_group``.

    Args:
        num_processes: of each machine.
    """
    import torch.distributed as dist
    from detectron2.utils import comm

    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(num_processes)
        return
    # 0.6 has no function for it: its launch sets this variable, as main's function does.
    for first in range(0, dist.get_world_size(), num_processes):
        ranks = list(range(first, first + num_processes))
        group = dist.new_group(ranks)
        if dist.get_rank() in ranks:
            comm._LOCAL_PROCESS_GROUP = group
