# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Training that goes on after an interruption as if there had been none (``MRCNN_EXT.RESUME``)."""

from .hook import ExactResume
from .loader import ExactLoader, make_exact
from .seeds import seed_step
from .stop import StopOnSignal

__all__ = ["ExactLoader", "ExactResume", "StopOnSignal", "make_exact", "seed_step"]
