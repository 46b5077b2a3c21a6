# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""How the machines of a training find each other, before any of them starts a process."""

from __future__ import annotations

import json
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import urlsplit

import torch.distributed as dist

from ..errors import ConfigError
from ..messages import shorten

__all__ = ["Meeting", "check_port", "meet", "parse_url"]

_POLL = 0.2  # seconds
_QUIET = 10.0  # seconds of waiting before a line says so
_HERE = "127.0.0.1"


@dataclass(frozen=True)
class Meeting:
    """Where the processes of a machine exchange their addresses.

    Attributes:
        host, port: of the store.
        store: of this process; that of machine 0 serves all others as long as it exists.
    """

    host: str
    port: int
    store: dist.TCPStore


def parse_url(dist_url: str | None, num_machines: int) -> tuple[str, int] | None:
    """Host and port of a dist_url; None if a free port of this machine is to be taken.

    Raises:
        ConfigError: it is none, or works for one machine only.
    """
    if dist_url in (None, "", "auto"):
        if num_machines == 1:
            return None
        raise ConfigError(
            f"dist_url (--dist-url) is {dist_url!r}, but there are {num_machines} machines; expected "
            "'tcp://HOST:PORT' with a host name or address of machine 0 that the others reach."
        )
    with suppress(ValueError):  # of an impossible port
        parts = urlsplit(str(dist_url))
        if parts.scheme == "tcp" and parts.hostname and parts.port:
            return parts.hostname, parts.port
    raise ConfigError(
        f"dist_url (--dist-url) is {dist_url!r}; expected 'tcp://HOST:PORT'"
        + (", or 'auto'." if num_machines == 1 else ", the same on all machines.")
    )


def check_port(port: int, dist_url: str) -> None:
    """Check that this machine can listen at a port.

    Raises:
        ConfigError: another program does, or it is not allowed.
    """
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        raise ConfigError(
            f"dist_url (--dist-url) is '{dist_url}', but this machine cannot listen at port {port}: "
            f"{error.strerror}. Is another training running? Name another port, or 'auto' where "
            "there is one machine."
        ) from error


def meet(
    dist_url: str | None,
    num_processes: int,
    num_machines: int,
    machine_rank: int,
    timeout: timedelta,
) -> Meeting:
    """Wait until all machines are there, and check that they were started alike.

    Args:
        dist_url: "tcp://HOST:PORT" of machine 0; None or "auto": any free port of this machine.
        num_processes: of each machine.
        num_machines: of the training.
        machine_rank: of this one.
        timeout: how long to wait for the others.

    Raises:
        ConfigError: the port is taken, machine 0 is not reached, others do not come, or were started
            with other numbers.
    """
    address = parse_url(dist_url, num_machines)
    deadline = time.monotonic() + timeout.total_seconds()
    if machine_rank == 0:
        if address is not None:
            check_port(address[1], str(dist_url))
        port = 0 if address is None else address[1]
        try:
            store = dist.TCPStore(_HERE, port, is_master=True, wait_for_workers=False)
        except RuntimeError as error:  # it was taken just now
            raise ConfigError(f"dist_url (--dist-url) is '{dist_url}': {error}") from error
        host = _HERE  # whatever name the others have for this machine
    else:
        assert address is not None
        host = address[0]
        _wait_for_port(address, str(dist_url), deadline, timeout)
        store = dist.TCPStore(host, address[1], is_master=False, wait_for_workers=False)
    meeting = Meeting(host, store.port, store)
    if num_machines > 1:
        try:
            _gather(store, str(dist_url), num_processes, num_machines, machine_rank, timeout)
        except RuntimeError as error:  # of the store
            raise ConfigError(
                f"the connection to machine 0 at {dist_url} was lost; see its output ({error})."
            ) from error
    return meeting


def _wait_for_port(
    address: tuple[str, int], dist_url: str, deadline: float, timeout: timedelta
) -> None:
    waiting = _Waiting(f"machine 0 at {dist_url}", timeout)
    while True:
        try:
            socket.create_connection(address, timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"machine 0 was not reached at {dist_url} within {_shown(timeout)}: "
                    f"{error.strerror or error}. dist_url (--dist-url) must be an address of machine "
                    "0 that this machine reaches, and machine 0 must have been started."
                ) from error
        waiting.say()
        time.sleep(_POLL)


def _gather(
    store: dist.TCPStore,
    dist_url: str,
    num_processes: int,
    num_machines: int,
    machine_rank: int,
    timeout: timedelta,
) -> None:
    """Sign in, wait for the others, compare."""
    own = {"num_machines": num_machines, "num_processes": num_processes}
    if store.add(f"came/{machine_rank}", 1) > 1:
        raise ConfigError(
            f"machine_rank (--machine-rank) is {machine_rank}, but another machine with this rank "
            f"came to {dist_url} before; expected each of 0 … {num_machines - 1} once."
        )
    store.set(f"machine/{machine_rank}", json.dumps(own))
    deadline = time.monotonic() + timeout.total_seconds()
    waiting = _Waiting("the other machines", timeout)
    missing = list(range(num_machines))
    while True:
        for rank in [rank for rank in missing if store.check([f"machine/{rank}"])]:
            missing.remove(rank)
            _compare(json.loads(store.get(f"machine/{rank}")), rank, own, machine_rank)
        if not missing:
            return
        if time.monotonic() > deadline:
            raise ConfigError(
                f"{num_machines - len(missing)} of {num_machines} machines came to {dist_url} within "
                f"{_shown(timeout)}; missing: machine {shorten(missing)}. Start the command there "
                "with the same --dist-url and --num-machines, and its own --machine-rank."
            )
        waiting.say()
        time.sleep(_POLL)


def _compare(other: dict, rank: int, own: dict, machine_rank: int) -> None:
    if other != own:
        raise ConfigError(
            f"machine {rank} was started with {_numbers(other)}, this one (machine {machine_rank}) "
            f"with {_numbers(own)}; they must be the same on all machines."
        )


def _numbers(own: dict) -> str:
    return f"--num-machines {own['num_machines']} and --num-gpus {own['num_processes']}"


def _shown(timeout: timedelta) -> str:
    seconds = timeout.total_seconds()
    return f"{seconds:g} seconds" if seconds < 120 else f"{seconds / 60:g} minutes"


class _Waiting:
    """Say once, after a while, what is waited for."""

    def __init__(self, what: str, timeout: timedelta) -> None:
        self.text = f"waiting for {what}, up to {_shown(timeout)}"
        self.start: float | None = time.monotonic()

    def say(self) -> None:
        if self.start is not None and time.monotonic() - self.start > _QUIET:
            self.start = None
            print(self.text, file=sys.stderr, flush=True)
