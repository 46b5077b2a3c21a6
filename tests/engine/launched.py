# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""What tests of ``launch`` run in other processes: these import it by its name."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from detectron2.utils import comm

from mrcnn_ext.errors import ConfigError


def note(folder: Path) -> None:
    """Write what a process knows of the others."""
    ranks = comm.all_gather(comm.get_rank())
    total = torch.tensor([comm.get_rank() + 1.0])
    dist.all_reduce(total)
    words = [comm.get_world_size(), comm.get_local_rank(), comm.get_local_size()]
    words += [torch.get_num_threads(), int(total), *ranks]
    (folder / str(comm.get_rank())).write_text(" ".join(map(str, words)))


def fail(what: str) -> None:
    """Process 1 ends in some way, while 0 waits for it."""
    if comm.get_rank() == 1 or what == "both":
        if what == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "exit":
            sys.exit(7)
        if what == "bug":
            raise KeyError("a bug")
        raise ConfigError("KEY is 1; expected 2.")
    comm.synchronize()


def wait(folder: Path) -> None:
    """Both note their numbers and wait for a signal, upon which they write a file."""
    (folder / f"{comm.get_rank()}.new").write_text(str(os.getpid()))
    (folder / f"{comm.get_rank()}.new").rename(folder / f"{comm.get_rank()}.pid")
    try:
        while True:
            time.sleep(0.05)
    except KeyboardInterrupt:
        (folder / f"{comm.get_rank()}.checkpoint").write_text("")
        raise


if __name__ == "__main__":
    from mrcnn_ext.engine.launch import launch
    from mrcnn_ext.stop_signals import StopSignals, exit_code

    try:
        with StopSignals():
            launch(wait, 2, args=(Path(sys.argv[1]),), device="cpu")
    except KeyboardInterrupt as stop:
        sys.exit(exit_code(stop))
