# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Which errors of a training are shown as one message, and which as a traceback."""

from __future__ import annotations

import pytest
import torch.utils.data
from detectron2.data.detection_utils import SizeMismatchError

from mrcnn_ext.engine.expected_errors import expected_error
from mrcnn_ext.errors import DataError


class _Failing(torch.utils.data.Dataset):
    def __init__(self, error: Exception) -> None:
        self.error = error

    def __len__(self) -> int:
        return 1

    def __getitem__(self, _index):
        raise self.error


def _in_a_worker(error: Exception) -> Exception:
    with pytest.raises(type(error)) as caught:
        list(torch.utils.data.DataLoader(_Failing(error), num_workers=1))
    return caught.value


def test_an_error_of_a_worker_is_its_last_line():
    error = _in_a_worker(DataError("image a.jpg cannot be read: it is gone."))
    assert "Traceback" in str(error)
    expected = expected_error(error)
    assert isinstance(expected, DataError)
    assert str(expected) == (
        "a worker that reads images failed: image a.jpg cannot be read: it is gone."
    )
    error = expected_error(_in_a_worker(OSError("Truncated File Read")))
    assert isinstance(error, OSError)
    assert str(error).endswith("failed: OSError: Truncated File Read")


def test_an_image_of_another_size_and_a_killed_worker():
    error = expected_error(SizeMismatchError("a.jpg, got (1, 1)"))
    assert isinstance(error, DataError)
    assert str(error) == "a.jpg, got (1, 1)"
    for how in ("(pid 5) is killed by signal: Killed. ", "(pid(s) 5, 6) exited unexpectedly"):
        error = expected_error(RuntimeError(f"DataLoader worker {how}"))
        assert isinstance(error, DataError)
        assert "DATALOADER.NUM_WORKERS" in str(error)


def test_faults_in_programs_stay():
    for error in (KeyError("a"), RuntimeError("CUDA error"), ValueError("b")):
        assert expected_error(error) is None
    error = OSError(28, "No space left")
    assert expected_error(error) is error
