# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""A run of predict that a signal ends in its midst."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.helpers import REPO

# Every image takes a moment, so that a signal comes within the run.
_SLOW = """
import sys, time
from mrcnn_ext.predict import Predictor
from mrcnn_ext.predict.__main__ import main
call = Predictor.__call__
Predictor.__call__ = lambda self, image: (time.sleep(0.1), call(self, image))[1]
sys.exit(main({arguments!r}))
"""


def end_predict(
    arguments: list[str], out: Path, name: str, *, begins: float, ends: float
) -> tuple[int, str]:
    """Exit code, and what it said on stderr.

    Args:
        arguments: of the command, whose output folder is ``out``.
        name: of the signal, which is sent after three images.
        begins, ends: seconds that these may take, and what the signal starts.
    """
    command = [sys.executable, "-c", _SLOW.format(arguments=arguments)]
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    file, start = out / "coco_results.jsonl", time.monotonic()
    while not file.exists() or file.read_bytes().count(b"\n") < 3:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() - start < begins
        time.sleep(0.02)
    process.send_signal(getattr(signal, name))
    error = process.communicate(timeout=ends)[1]
    return process.returncode, error
