# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""A training config for a data set and the memory there is, with the reason of each choice."""

from .choices import Choice, Machine, choose
from .text import config_text

__all__ = ["Choice", "Machine", "choose", "config_text"]
