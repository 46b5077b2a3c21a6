# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""A picture of training samples as the model gets them: ``python -m mrcnn_ext.data.show``."""

from .pictures import as_rgb, draw_sample
from .samples import TrainingSamples

__all__ = ["TrainingSamples", "as_rgb", "draw_sample"]
