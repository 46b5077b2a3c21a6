# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The keys below ``MRCNN_EXT``: their defaults, their check, their reference page."""

from .defaults import add_mrcnn_ext_config

__all__ = ["add_mrcnn_ext_config"]
