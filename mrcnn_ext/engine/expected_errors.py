# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Errors of a training whose message says all: mistakes in config, data and weights, lost workers."""

from __future__ import annotations

import re

from detectron2.data.detection_utils import SizeMismatchError

from ..errors import ConfigError, DataError, WeightsError

__all__ = ["EXPECTED_ERRORS", "expected_error"]

# FloatingPointError is Detectron2's for a loss that is NaN.
EXPECTED_ERRORS = (ConfigError, DataError, WeightsError, FloatingPointError, OSError)
_KILLED = re.compile(
    r"DataLoader worker \(pid\(?s?\)? [\d, ]+\) (?:is killed by signal: (\w+)|exited)"
)
_CAUGHT = re.compile(r"Caught \w+ in DataLoader worker process \d+\.\n")
_LAST = re.compile(r"^(?:[\w.]+\.)?\w+: ", re.MULTILINE)  # of a traceback: class and message
_OWN = re.compile(r"^mrcnn_ext\.errors\.\w+: ")


def expected_error(error: BaseException) -> Exception | None:
    """The error to show in place of ``error``; None if it may be a fault in a program.

    A worker of a data loader sends its traceback as the message; what it is about is the last line.

    Args:
        error: of a training.
    """
    killed = _KILLED.search(str(error)) if isinstance(error, RuntimeError) else None
    if killed:
        how = f"was ended by a signal ({killed[1]})" if killed[1] else "is gone"
        return DataError(
            f"a worker that reads images {how}. Linux kills one where memory runs out: try fewer "
            "(DATALOADER.NUM_WORKERS, dataloader.train.num_workers), or free memory and /dev/shm."
        )
    if not isinstance(error, (*EXPECTED_ERRORS, SizeMismatchError)):
        return None
    text = str(error)
    caught = _CAUGHT.match(text)
    if caught:
        last = list(_LAST.finditer(text))
        text = text[last[-1].start() :].strip() if last else text
        text = f"a worker that reads images failed: {_OWN.sub('', text)}"
    elif isinstance(error, EXPECTED_ERRORS):
        return error
    cls = next((cls for cls in EXPECTED_ERRORS if isinstance(error, cls)), DataError)
    return cls(text)
