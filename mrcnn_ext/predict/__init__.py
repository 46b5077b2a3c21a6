# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The parts of ``python -m mrcnn_ext.predict``, for use in other programs."""

from .._moved import moved_names
from ..config.load import load_config
from .predictor import Predictor
from .sources import Source, find_sources
from .writer import PredictionWriter

__all__ = ["PredictionWriter", "Predictor", "Source", "find_sources", "load_config"]

__getattr__ = moved_names(__name__, {"main": "mrcnn_ext.predict.__main__"})
