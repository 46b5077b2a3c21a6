# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Start the processes of a training: on GPUs by Detectron2's launch, on CPUs over gloo."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.engine import launch as detectron2_launch
from detectron2.utils import comm

from ..child_processes import GRACE
from ..compat import create_local_process_group
from ..errors import ConfigError
from .processes import (
    STOP_GRACE,
    ProcessError,
    end_processes,
    end_with_starter,
    outcome_of,
    raise_outcome,
    run_processes,
)
from .rendezvous import check_port, meet, parse_url

__all__ = ["DEFAULT_TIMEOUT", "launch", "threads_per_process"]

DEFAULT_TIMEOUT = timedelta(minutes=30)  # Detectron2's
_AUTO = "auto"


def launch(
    main: Callable,
    num_processes: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    args: tuple = (),
    device: str = "cuda",
    timeout: timedelta = DEFAULT_TIMEOUT,
) -> None:
    """Call ``main(*args)`` in every process of a training, as Detectron2's launch does.

    One process is this one. Several are new ones; if one of them fails, the others are ended and its
    error is raised here. SIGTERM, SIGINT and SIGHUP, as exceptions of
    :class:`~mrcnn_ext.stop_signals.StopSignals`, are passed on to them as SIGTERM. They have
    STOP_GRACE seconds to write a checkpoint, and end with this process, whatever ends it.

    On CPUs, the threads of each are as many as OMP_NUM_THREADS says, else its share of the processor.

    Args:
        main: can be pickled, as can ``args``.
        num_processes: on each machine. On GPUs each process has one.
        num_machines: of the training.
        machine_rank: of this one: 0 … num_machines - 1.
        dist_url: "tcp://HOST:PORT" of machine 0. None or "auto": any free port, for one machine.
        args: of ``main``.
        device: "cuda" or "cpu".
        timeout: how long machines wait for each other, and processes in one exchange.

    Raises:
        ConfigError: an argument cannot work, the port is taken, a machine was not reached.
        ProcessError: one of several processes failed; has its traceback.
        Stopped: a signal ended one of several processes.
        SystemExit: one of several processes ended with an exit code.
    """
    _check_numbers(num_processes, num_machines, machine_rank)
    if device not in ("cuda", "cpu"):
        raise ConfigError(f"device is {device!r}; expected 'cuda' or 'cpu'.")
    if device == "cuda":
        _check_gpus(num_processes)
    if num_processes * num_machines == 1:
        main(*args)
        return
    parse_url(dist_url, num_machines)
    if device == "cuda":
        _launch_on_gpus(main, num_processes, num_machines, machine_rank, dist_url, args, timeout)
    else:
        _launch_on_cpus(main, num_processes, num_machines, machine_rank, dist_url, args, timeout)


def threads_per_process(num_processes: int) -> int:
    """Threads of each of several CPU processes on this machine: OMP_NUM_THREADS, or their share."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked):
        return int(asked)
    has_affinity = hasattr(os, "sched_getaffinity")  # what a container or taskset leaves
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return max(1, cores // num_processes)


def _check_numbers(num_processes: int, num_machines: int, machine_rank: int) -> None:
    for name, option, value in (
        ("num_processes", "--num-gpus", num_processes),
        ("num_machines", "--num-machines", num_machines),
    ):
        if value < 1:
            raise ConfigError(f"{name} ({option}) is {value}; expected 1 or more.")
    if not 0 <= machine_rank < num_machines:
        expected = f"0 … {num_machines - 1}" if num_machines > 1 else "0, for there is one machine"
        raise ConfigError(f"machine_rank (--machine-rank) is {machine_rank}; expected {expected}.")


def _check_gpus(num_processes: int) -> None:
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if num_processes > there:
        raise ConfigError(
            f"num_processes (--num-gpus) is {num_processes}, but this machine has "
            f"{there or 'no'} {'GPU' if there == 1 else 'GPUs'} that PyTorch can use. MODEL.DEVICE "
            "cpu trains on CPUs."
        )


# ---------------------------------------------------------------------------------------------- CPUs


def _launch_on_cpus(
    main, num_processes, num_machines, machine_rank, dist_url, args, timeout
) -> None:
    # Kept until all have ended: the store of machine 0 serves all processes.
    meeting = meet(dist_url, num_processes, num_machines, machine_rank, timeout)
    world_size = num_processes * num_machines
    threads = threads_per_process(num_processes)
    first = machine_rank * num_processes
    arguments = [
        (
            rank,
            world_size,
            num_processes,
            (meeting.host, meeting.port),
            threads,
            timeout,
            main,
            args,
        )
        for rank in range(first, first + num_processes)
    ]
    names = [f"process {rank} of {world_size}" for rank in range(first, first + num_processes)]
    hint = "" if num_machines == 1 else " (if it lost the others, see the other machines' output)"
    run_processes(_cpu_process, arguments, names, hint)
    del meeting


def _cpu_process(
    rank: int,
    world_size: int,
    num_processes: int,
    address: tuple[str, int],
    threads: int,
    timeout: timedelta,
    main: Callable,
    args: tuple,
) -> None:
    torch.set_num_threads(threads)
    host, port = address
    store = dist.TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timeout)
    dist.init_process_group(
        "gloo",
        store=dist.PrefixStore("processes", store),
        rank=rank,
        world_size=world_size,
        timeout=timeout,
    )
    create_local_process_group(num_processes)
    comm.synchronize()
    main(*args)
    # Only after success: after an error, the others may wait for this one in vain.
    dist.destroy_process_group()


# ---------------------------------------------------------------------------------------------- GPUs


def _launch_on_gpus(
    main, num_processes, num_machines, machine_rank, dist_url, args, timeout
) -> None:
    address = parse_url(dist_url, num_machines)
    if address is not None and machine_rank == 0:
        check_port(address[1], str(dist_url))
    reports = multiprocessing.get_context("spawn").SimpleQueue()
    others = set(multiprocessing.active_children())
    try:
        detectron2_launch(
            _gpu_process,
            num_processes,
            num_machines=num_machines,
            machine_rank=machine_rank,
            dist_url=dist_url if address else _AUTO,
            args=(reports, main, args),
            timeout=timeout,
        )
    except (mp.ProcessExitedException, mp.ProcessRaisedException) as error:
        end_processes(set(multiprocessing.active_children()) - others, GRACE)
        outcomes = []
        while not reports.empty():
            outcomes.append(reports.get())
        if not outcomes:
            # Before ``main`` was called, or by a signal that no program can handle
            raise ProcessError(str(error).strip()) from None
        rank, outcome = min(outcomes, key=lambda pair: pair[1].time)
        raise_outcome(outcome, f"process {rank} of {num_processes * num_machines}")
    except BaseException:  # a signal
        end_processes(set(multiprocessing.active_children()) - others, STOP_GRACE)
        raise


def _gpu_process(reports, main: Callable, args: tuple) -> None:
    end_with_starter()
    outcome = outcome_of(lambda: main(*args))
    if outcome.kind != "done":
        reports.put((comm.get_rank(), outcome))
        raise SystemExit(outcome.code)
