# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Processes end with the one that started them; signals end commands, but within no write."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

import mrcnn_ext
from mrcnn_ext import child_processes, job_runner
from mrcnn_ext.child_processes import end_children, start_child
from mrcnn_ext.errors import DataError
from mrcnn_ext.files import only_process
from mrcnn_ext.job_runner import Job, JobError, run_jobs
from mrcnn_ext.stop_signals import Stopped, StopSignals, exit_code

# The package without Detectron2, which takes seconds to import
_BARE = f"""
import os, pathlib, signal, subprocess, sys, time, types
package = types.ModuleType("mrcnn_ext")
package.__path__ = [{str(Path(mrcnn_ext.__file__).parent)!r}]
sys.modules["mrcnn_ext"] = package
from mrcnn_ext.child_processes import end_with_parent, start_child
from mrcnn_ext.files import only_process

def note(file, *processes):
    pathlib.Path(file + ".new").write_text(" ".join(map(str, processes)))
    os.replace(file + ".new", file)
"""
# Trains with one worker
_CHILD = f"""{_BARE}
end_with_parent()
note(sys.argv[1], os.getpid(), subprocess.Popen(["sleep", "100"]).pid)
time.sleep(100)
"""
_STUBBORN = _CHILD.replace(
    "end_with_parent()\n", "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n", 1
)


def _wait(condition, seconds: float = 60):
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds
        time.sleep(0.02)


def _state(process: int) -> str:
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return "X"
    return status.rpartition(")")[2].split()[0]


def _runs(process: int) -> bool:
    """A zombie does not: in a container, nobody may take notice of its end."""
    return _state(process) not in "ZX"


def _processes(file: Path) -> list[int]:
    _wait(file.exists)
    return [int(word) for word in file.read_text().split()]


def _is_held(folder: Path) -> bool:
    try:
        with only_process(folder):
            return False
    except DataError:
        return True


def test_children_of_a_killed_parent_end_and_hold_its_folder_until_then(tmp_path):
    parent = f"""{_BARE}
with only_process({str(tmp_path / "held")!r}):
    command = [sys.executable, "-c", {_CHILD!r}, {str(tmp_path / "pids")!r}]
    note({str(tmp_path / "child")!r}, start_child(command, env=os.environ).pid)
    time.sleep(100)
"""
    process = subprocess.Popen([sys.executable, "-c", parent])
    child, worker = _processes(tmp_path / "pids")
    assert _processes(tmp_path / "child") == [child]
    os.kill(child, signal.SIGSTOP)  # so that it cannot notice yet
    _wait(lambda: _state(child) == "T")
    process.kill()
    process.wait()
    assert _is_held(tmp_path / "held")
    os.kill(child, signal.SIGCONT)
    _wait(lambda: not _runs(child) and not _runs(worker))
    # The first thread of a process may be gone before its last, which closes the files.
    _wait(lambda: not _is_held(tmp_path / "held"))


def test_a_child_that_ignores_sigterm_is_killed_with_its_workers(tmp_path):
    file = tmp_path / "pids"
    child = start_child([sys.executable, "-c", _STUBBORN, str(file)], env=os.environ)
    pids = _processes(file)
    start = time.monotonic()
    end_children([child], grace=0.3)
    assert 0.3 <= time.monotonic() - start < 30
    assert child.returncode == -signal.SIGKILL
    _wait(lambda: not any(map(_runs, pids)))
    end_children([child], grace=0.3)  # of one that has ended


def test_a_program_with_another_stdin_does_not_wait_for_a_parent(monkeypatch):
    monkeypatch.setenv(child_processes._VARIABLE, "1:2")  # inherited from a training
    child_processes.end_with_parent()
    assert "end_with_parent" not in {thread.name for thread in threading.enumerate()}


# ------------------------------------------------------------------------------------------- signals


def test_the_first_signal_counts_and_none_comes_within_a_held_block():
    before = signal.getsignal(signal.SIGTERM)
    done = []

    def write(signals):
        with signals.held():
            signal.raise_signal(signal.SIGTERM)
            done.append("whole")
        done.append("more")

    with StopSignals() as signals:
        with pytest.raises(Stopped) as stopped:
            write(signals)
        signal.raise_signal(signal.SIGINT)
    assert done == ["whole"]
    assert exit_code(stopped.value) == 128 + signal.SIGTERM
    assert exit_code(KeyboardInterrupt()) == 130
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_signal_while_handlers_are_set_is_raised_within_the_block(monkeypatch):
    set_handler, before = signal.signal, signal.getsignal(signal.SIGTERM)

    def signalled(number, handler):
        previous = set_handler(number, handler)
        if number == signal.SIGTERM and handler != before:
            signal.raise_signal(signal.SIGTERM)
        return previous

    monkeypatch.setattr(signal, "signal", signalled)
    with StopSignals() as signals, pytest.raises(Stopped):
        signals.check()
    assert signal.getsignal(signal.SIGTERM) == before


# ---------------------------------------------------------------------------------------------- jobs


def _job(folder: Path, code: str) -> Job:
    done = folder / "job" / "done"
    return Job("job", folder / "job", (sys.executable, "-c", code, str(done)), 4, done.is_file)


def _after(condition, number: int, times: int = 1) -> threading.Thread:
    """Send this process a signal, perhaps again, as soon as a condition holds."""

    def send():
        _wait(condition)
        for _ in range(times):
            os.kill(os.getpid(), number)
            time.sleep(0.05)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def test_a_signal_ends_jobs_and_their_workers_and_says_where_they_stood(tmp_path, monkeypatch):
    monkeypatch.setattr(job_runner, "_POLL", 0.05)
    job = _job(tmp_path, _CHILD)
    job.folder.mkdir()
    (job.folder / "metrics.json").write_text('{"iteration": 2, "total_loss": 1.5}\n')
    console = Console(record=True, width=200)
    file = job.folder / "done"
    job = Job("job", job.folder, job.command, 4, lambda: False)
    with StopSignals() as signals:
        sender = _after(file.exists, signal.SIGTERM, times=3)
        with pytest.raises(Stopped) as stopped:
            run_jobs([job], 1, console=console, signals=signals)
        sender.join()
    assert stopped.value.exit_code == 143
    _wait(lambda: not any(map(_runs, _processes(file))))
    assert "ended job (3/4, loss 1.500)" in console.export_text()


def test_a_signal_while_a_job_is_started_leaves_nothing_running(tmp_path, monkeypatch):
    started = []

    def starts_slowly(*arguments, **options):
        started.append(start_child(*arguments, **options))
        signal.raise_signal(signal.SIGHUP)
        return started[0]

    monkeypatch.setattr(job_runner, "start_child", starts_slowly)
    with pytest.raises(Stopped):
        run_jobs([_job(tmp_path, _CHILD)], 1, console=Console(quiet=True))
    assert started[0].returncode == -signal.SIGTERM


def test_a_second_start_adds_to_the_log_and_warnings_are_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(job_runner, "_POLL", 0.05)
    console = Console(record=True, width=200)
    for word in ("first", "second"):
        code = f"print('warning: the {word} file is damaged', flush=True); raise OSError('{word}')"
        with pytest.raises(JobError, match=f"OSError: {word}"):
            run_jobs([_job(tmp_path, code)], 1, console=console)
    log = (tmp_path / "job" / "output.txt").read_text()
    assert log.index("OSError: first") < log.index("OSError: second")
    assert log.count("\n--- ") + log.startswith("--- ") == 2
    shown = console.export_text()
    for word in ("first", "second"):
        assert shown.count(f"warning: job: the {word} file is damaged") == 1
