# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import signal

import pytest
import torch

from tests.helpers import THREADS


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """A cache of this run's own: nothing of the user's is read or written."""
    previous = os.environ.get("MRCNN_EXT_CACHE")
    os.environ["MRCNN_EXT_CACHE"] = str(tmp_path_factory.mktemp("mrcnn_ext_cache"))
    yield
    os.environ.pop("MRCNN_EXT_CACHE")
    if previous is not None:
        os.environ["MRCNN_EXT_CACHE"] = previous


@pytest.fixture(scope="session", autouse=True)
def _hangups():
    """SIGHUP ends commands, also where nohup started the tests."""
    previous = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, previous)


@pytest.fixture(autouse=True)
def _threads():
    torch.set_num_threads(THREADS)


@pytest.fixture(params=["faster_coco_eval", "pycocotools"])
def backend(request):
    """Each library that the evaluation can run on."""
    if request.param == "faster_coco_eval":
        pytest.importorskip("faster_coco_eval")
    return request.param
