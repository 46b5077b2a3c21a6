# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The errors this package raises for bad input; each message names what is wrong and what to do."""

from __future__ import annotations

__all__ = ["ConfigError", "DataError", "WeightsError"]


class ConfigError(ValueError):
    """A config key holds a value that cannot work; the message names the key."""


class DataError(ValueError):
    """A dataset or one of its images is unusable; the message names the file and image id."""


class WeightsError(RuntimeError):
    """Pretrained weights cannot be had or do not fit; the message names source and alternatives."""
