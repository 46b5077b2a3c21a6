# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Processes of a training: how they start, find each other, fail and end."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import timedelta

import pytest
import torch
import torch.multiprocessing as mp

from mrcnn_ext.engine import launch as launch_module
from mrcnn_ext.engine.launch import launch, threads_per_process
from mrcnn_ext.engine.processes import (
    Outcome,
    ProcessError,
    outcome_of,
    raise_outcome,
    run_processes,
)
from mrcnn_ext.engine.rendezvous import meet
from mrcnn_ext.errors import ConfigError, DataError
from mrcnn_ext.stop_signals import Stopped
from tests.engine import launched
from tests.helpers import REPO, THREADS

SHORT = timedelta(seconds=0.5)
LONG = timedelta(seconds=60)


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _never(*_args) -> None:
    raise AssertionError("called")


# ------------------------------------------------------------------------------------- in one process


def test_one_process_is_this_one():
    called = []
    launch(called.append, 1, args=("x",), device="cpu")
    assert called == ["x"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_processes": 0}, r"num_processes \(--num-gpus\) is 0; expected 1 or more"),
        ({"num_machines": 0}, r"num_machines \(--num-machines\) is 0"),
        ({"machine_rank": 1}, r"machine_rank \(--machine-rank\) is 1; expected 0, for"),
        ({"machine_rank": -1, "num_machines": 3}, "is -1; expected 0 … 2"),
        ({"device": "tpu"}, "device is 'tpu'; expected 'cuda' or 'cpu'"),
        ({"num_machines": 2}, r"dist_url \(--dist-url\) is None, but there are 2 machines"),
        ({"num_machines": 2, "dist_url": "auto"}, "is 'auto', but there are 2 machines"),
        (
            {"num_machines": 2, "dist_url": "file:///x"},
            "is 'file:///x'; expected 'tcp://HOST:PORT'",
        ),
        ({"num_processes": 2, "dist_url": "tcp://host"}, "'tcp://HOST:PORT', or 'auto'"),
        ({"num_processes": 2, "dist_url": "tcp://host:99999"}, "expected 'tcp://HOST:PORT'"),
    ],
)
def test_arguments_are_checked_before_anything_starts(arguments, message):
    with pytest.raises(ConfigError, match=message):
        launch(_never, **{"num_processes": 1, "device": "cpu", **arguments})


@pytest.mark.skipif(torch.cuda.is_available(), reason="of machines without GPU")
def test_gpus_that_are_not_there():
    with pytest.raises(ConfigError, match=r"this machine has no GPUs .* MODEL\.DEVICE cpu"):
        launch(_never, 2, device="cuda")


def test_a_port_that_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        for device, processes in (("cpu", 2), ("cpu", 1)):
            with pytest.raises(ConfigError, match=f"'{address}'.*cannot listen at port"):
                launch(_never, processes, 3 - processes, 0, address, device=device, timeout=SHORT)


def test_machines_that_do_not_come(port):
    address = f"tcp://127.0.0.1:{port}"
    with pytest.raises(ConfigError, match=f"machine 0 was not reached at {address} within 0.5 sec"):
        launch(_never, 1, 3, 2, address, device="cpu", timeout=SHORT)
    with pytest.raises(ConfigError, match=rf"1 of 3 machines came to {address}.*machine 1, 2"):
        launch(_never, 1, 3, 0, address, device="cpu", timeout=SHORT)


def _meet_both(port: int, *others: tuple) -> list:
    """Machine 0, for two machines of one process each, and others: (processes, machines, rank)."""
    results: list = [None] * (len(others) + 1)

    def run(place: int, processes: int, machines: int, rank: int) -> None:
        try:
            url = f"tcp://127.0.0.1:{port}"
            results[place] = meet(url, processes, machines, rank, timedelta(seconds=5))
        except ConfigError as error:
            results[place] = error

    threads = [
        threading.Thread(target=run, args=(place, *numbers))
        for place, numbers in enumerate([(1, 2, 0), *others])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_two_machines_meet_at_one_store(port):
    first, second = _meet_both(port, (1, 2, 1))
    assert first.port == second.port == port
    first.store.set("key", "value")
    assert second.store.get("key") == b"value"


def test_machines_that_were_started_differently(port):
    results = _meet_both(port, (2, 2, 1))
    text = "\n".join(map(str, results))
    assert "--num-machines 2 and --num-gpus 2" in text
    assert "must be the same on all machines" in text
    assert all(isinstance(result, ConfigError) for result in results)


def test_two_machines_of_one_rank(port):
    results = _meet_both(port, (1, 2, 1), (1, 2, 1))
    text = [str(result) for result in results if isinstance(result, ConfigError)]
    assert len(text) == 1
    assert "machine_rank (--machine-rank) is 1, but another machine" in text[0]


def test_threads_are_a_share_of_the_cores(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads_per_process(2) == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert [threads_per_process(n) for n in (1, 2, 3, 100)] == [8, 4, 2, 1]


def _raise(error: BaseException):
    raise error


@pytest.mark.parametrize(
    ("raised", "expected", "message"),
    [
        (DataError("image 7"), DataError, "^image 7$"),
        (FloatingPointError("NaN"), FloatingPointError, "^NaN$"),
        (FileNotFoundError(2, "no such file", "x"), OSError, "no such file: 'x'"),
        (KeyError("bug"), ProcessError, "^process 1 of 2 failed here:\nTraceback(.|\n)*'bug'$"),
        (Stopped(signal.SIGTERM), Stopped, "SIGTERM"),
        (KeyboardInterrupt(), Stopped, "SIGINT"),
        (SystemExit(143), SystemExit, "143"),
        (SystemExit("text"), SystemExit, "text"),
    ],
)
def test_what_a_process_raises_is_raised_where_it_was_started(raised, expected, message):
    outcome = outcome_of(lambda: _raise(raised))
    with pytest.raises(expected, match=message):
        raise_outcome(outcome, "process 1 of 2", " here")


def test_exit_code_0_is_success():
    for code in (0, None):
        outcome = outcome_of(lambda code=code: _raise(SystemExit(code)))
        assert (outcome.kind, outcome.code) == ("done", 0)
    assert outcome_of(lambda: None).kind == "done"


def test_gpu_processes_hand_over_to_detectron2(monkeypatch):
    """Its launch, and what it raises, are stood in for: there need not be a GPU."""
    given = {}

    def stands_in(main, number, **options):
        given.update(options, number=number)
        reports = options["args"][0]
        reports.put((0, Outcome(2.0, "failed", text="the connection was lost", code=1)))
        reports.put((1, Outcome(1.0, "error", DataError, "image 7", 1)))
        raise mp.ProcessExitedException("process 1", 1, 0, 1)

    monkeypatch.setattr(launch_module, "_check_gpus", lambda _: None)
    monkeypatch.setattr(launch_module, "detectron2_launch", stands_in)
    with pytest.raises(DataError, match="image 7"):  # the first one
        launch(_never, 2, device="cuda")
    assert given["number"] == 2
    assert (given["num_machines"], given["machine_rank"]) == (1, 0)
    assert given["dist_url"] == "auto"
    assert given["args"][1:] == (_never, ())


# --------------------------------------------------------------------------------- in other processes


@pytest.mark.slow
def test_two_processes_know_each_other(tmp_path):
    launch(launched.note, 2, args=(tmp_path,), device="cpu")
    threads = threads_per_process(2)
    for rank in (0, 1):  # world size, local rank, local size, threads, sum, ranks
        assert (tmp_path / str(rank)).read_text() == f"2 {rank} 2 {threads} 3 0 1"


@pytest.mark.slow
def test_two_machines_of_one_process_each(tmp_path, port):
    address = f"tcp://127.0.0.1:{port}"

    def run(rank: int) -> None:
        launch(launched.note, 1, 2, rank, address, args=(tmp_path,), device="cpu", timeout=LONG)

    second = threading.Thread(target=run, args=(1,))
    second.start()
    run(0)
    second.join()
    for rank in (0, 1):
        assert (tmp_path / str(rank)).read_text().startswith(f"2 0 1 {threads_per_process(1)} 3")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        ("error", ConfigError, "^KEY is 1; expected 2.$"),
        ("both", ConfigError, "^KEY is 1; expected 2.$"),
        ("bug", ProcessError, "^process 1 of 2 failed:\nTraceback(.|\n)*'a bug'$"),
        ("exit", SystemExit, "^7$"),
        ("killed", ProcessError, "process 1 of 2 failed:\nended by SIGKILL"),
    ],
)
def test_one_failure_ends_all_and_is_said_once(what, error, message):
    with pytest.raises(error, match=message):
        launch(launched.fail, 2, args=(what,), device="cpu", dist_url="auto")
    assert not multiprocessing.active_children()


def _pids(folder) -> list[int]:
    start = time.monotonic()
    files = [folder / f"{rank}.pid" for rank in (0, 1)]
    while not all(file.is_file() for file in files):
        assert time.monotonic() - start < 240
        time.sleep(0.1)
    return [int(file.read_text()) for file in files]


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks at processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_processes_end_with_the_one_that_started_them(tmp_path, number):
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS)}
    command = [sys.executable, "-W", "ignore", "-m", "tests.engine.launched", str(tmp_path)]
    process = subprocess.Popen(command, cwd=REPO, env=environment)
    pids = _pids(tmp_path)
    process.send_signal(number)
    code = process.wait(120)
    start = time.monotonic()
    while any(map(_runs, pids)):
        assert time.monotonic() - start < 60
        time.sleep(0.1)
    assert code == (128 + number if number == signal.SIGTERM else -number)
    assert all((tmp_path / f"{rank}.checkpoint").is_file() for rank in (0, 1))


@pytest.mark.slow
def test_a_process_that_was_ended_by_a_signal_from_outside(tmp_path):
    """As a cluster does that sends SIGTERM to every process of a job."""

    def send():
        os.kill(_pids(tmp_path)[1], signal.SIGTERM)

    sender = threading.Thread(target=send)
    sender.start()
    with pytest.raises(Stopped) as stopped:
        launch(launched.wait, 2, args=(tmp_path,), device="cpu")
    sender.join()
    assert stopped.value.exit_code == 128 + signal.SIGTERM
    assert (tmp_path / "0.checkpoint").is_file()


@pytest.mark.slow
def test_a_process_that_cannot_be_started_leaves_none(tmp_path):
    arguments = [(tmp_path,), (lambda: None,)]  # which cannot be pickled
    with pytest.raises((AttributeError, pickle.PicklingError)):
        run_processes(_never, arguments, ["a", "b"])
    assert not multiprocessing.active_children()
